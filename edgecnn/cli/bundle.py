"""`edgecnn bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.bundle.manifest import Images
from edgecnn.cli.completion import complete_recipe, complete_target
from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import say

EXAMPLES = """
edgecnn bundle runs/lenet5-digits --for cpu -o lenet5.tar
edgecnn bundle runs/lenet5-digits --for agx-orin --images files -o lenet5.tar  # needs a run for that target
"""


def bundle(
    run: Annotated[str, typer.Argument(help="A run folder, or a recipe's name.", autocompletion=complete_recipe)],
    target: Annotated[
        str, typer.Option("--for", help="The device: one of the recipe's targets.", autocompletion=complete_target)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .tar to write.")],
    images: Annotated[
        Images, typer.Option(help="Test images: decoded and cropped in one file, as files, or left out.")
    ] = "packed",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Pack what a device needs of a run.

    That is graphs, the reference, the recipe, its baselines and test images.

    On the device `edgecnn run FILE.tar` builds, measures and judges; it needs neither PyTorch nor ONNX there.
    """
    from edgecnn.errors import RecipeError
    from edgecnn.pipeline.device import bundle as pack
    from edgecnn.pipeline.find import find_recipe_and_folder

    if run.endswith(".tar") and Path(run).is_file():
        raise RecipeError(f"{run}: is a bundle already", "name the run folder that it was unpacked into")
    recipe, folder = find_recipe_and_folder(run)
    made = pack(recipe, folder, output, target=target, images=images)
    size_mb = output.stat().st_size / 1e6
    if as_json:
        print_json({"output": str(output), "target": made.target, "files": len(made.files), "size_mb": size_mb})
        return
    say(f"{output}: {len(made.files)} files for {made.target}, {size_mb:.1f} MB; there: `edgecnn run {output.name}`")
