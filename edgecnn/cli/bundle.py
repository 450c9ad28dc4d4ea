"""`edgecnn bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgecnn.bundle.manifest import Images
from edgecnn.cli.completion import complete_recipe, complete_target
from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import say
from edgecnn.recipe.schema import Recipe

EXAMPLES = """
edgecnn bundle runs/lenet5-digits --for cpu -o lenet5.tar
edgecnn bundle runs/lenet5-digits --for agx-orin --images files -o lenet5.tar  # needs a run for that target
edgecnn bundle runs/lenet5-digits --for triton -o lenet5-triton
edgecnn bundle runs/lenet5-digits --for trtexec --tensorrt 8.6.2 -o lenet5-trt8
edgecnn bundle runs/NAME --for trtexec --dla 0 -o on-dla  # needs a run for a device that has a DLA
"""
SERVERS = ("triton", "deepstream", "trtexec", "cpp")


def bundle(
    run: Annotated[str, typer.Argument(help="A run folder, or a recipe's name.", autocompletion=complete_recipe)],
    target: Annotated[
        str,
        typer.Option(
            "--for",
            help=f"A device, one of the recipe's targets; or what serves the graph: {', '.join(SERVERS)}.",
            autocompletion=complete_target,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .tar, or for a server the folder, to write.")],
    images: Annotated[
        Images, typer.Option(help="Test images: decoded and cropped in one file, as files, or left out.")
    ] = "packed",
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        typer.Option(help="Of what is served.  [default: the smallest that the recipe has]"),
    ] = None,
    tensorrt: Annotated[
        str, typer.Option(help="Its version where it is served.  [default: the oldest of the recipe's targets]")
    ] = "",
    dla: Annotated[
        int | None, typer.Option(min=0, help="With --for trtexec: this DLA core, what it refuses on the GPU.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Pack what a device needs of a run, or what a server does.

    For a device that is graphs, the reference, the recipe, its baselines and test images.
    There `edgecnn run FILE.tar` builds, measures and judges; it needs neither PyTorch nor ONNX.

    For a server it is a folder with one graph, its settings, and a script that builds the plan there.
    """
    from edgecnn.errors import RecipeError, nearest
    from edgecnn.pipeline.find import find_recipe_and_folder

    if run.endswith(".tar") and Path(run).is_file():
        raise RecipeError(f"{run}: is a bundle already", "name the run folder that it was unpacked into")
    is_server = target in SERVERS
    if is_server and images != "packed":
        raise RecipeError(f"--images {images}: a bundle for {target} has no images", "leave it out")
    if not is_server and (precision or tensorrt or dla is not None):
        raise RecipeError("--precision, --tensorrt and --dla are of what serves a graph", f"--for {', '.join(SERVERS)}")
    recipe, folder = find_recipe_and_folder(run)
    if target not in (*SERVERS, *recipe.targets) and (meant := nearest(target, SERVERS)):
        raise RecipeError(f"--for {target}: neither a target of the recipe nor a server", meant)
    if is_server:
        _bundle_for_server(recipe, folder, output, target, precision, tensorrt, dla, as_json=as_json)
    else:
        _bundle_for_device(recipe, folder, output, target, images, as_json=as_json)


def _bundle_for_device(
    recipe: Recipe, folder: Path, output: Path, target: str, images: Images, *, as_json: bool
) -> None:
    from edgecnn.pipeline.device import bundle as pack

    made = pack(recipe, folder, output, target=target, images=images)
    size_mb = output.stat().st_size / 1e6
    if as_json:
        print_json({"output": str(output), "target": made.target, "files": len(made.files), "size_mb": size_mb})
        return
    say(f"{output}: {len(made.files)} files for {made.target}, {size_mb:.1f} MB; there: `edgecnn run {output.name}`")


def _bundle_for_server(
    recipe: Recipe,
    folder: Path,
    output: Path,
    target: str,
    precision: Literal["fp32", "fp16", "int8"] | None,
    tensorrt: str,
    dla: int | None,
    *,
    as_json: bool,
) -> None:
    from edgecnn.pipeline.serving import bundle_for_serving

    made = bundle_for_serving(recipe, folder, output, target, precision=precision, tensorrt=tensorrt, dla=dla)
    files = [path for path in output.rglob("*") if path.is_file()]
    size_mb = sum(path.stat().st_size for path in files) / 1e6
    if as_json:
        row = {"output": str(output), "target": target, "precision": made.precision, "tensorrt": made.tensorrt}
        print_json({**row, "files": len(files), "size_mb": size_mb})
        return
    what = f"{made.precision} for {target} with TensorRT {made.tensorrt}"
    say(f"{output}: {len(files)} files, {what}, {size_mb:.1f} MB; README.txt there says how it is used")
