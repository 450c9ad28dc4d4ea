"""`edgecnn calibration-set`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import say
from edgecnn.steps import CALIBRATION_IMAGES

if TYPE_CHECKING:
    from edgecnn.data.calibration_set import Manifest

EXAMPLES = """
edgecnn calibration-set digits --images 100 -o mine.txt
edgecnn calibration-set digits --test --version 2 -o tests.txt
edgecnn calibration-set calibration/imagenet-1024.toml:imagenet:/data/imagenet -o imagenet.txt  # needs data
"""


def calibration_set(
    data: Annotated[
        str,
        typer.Argument(
            help="Whose training images: a data set, a folder, or an .npz; or RULE.toml:DATA, MANIFEST.txt:DATA."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest, calibration/NAME.txt.")],
    images: Annotated[
        int | None,
        typer.Option(min=1, help=f"How many images, spread over the classes.  [default: {CALIBRATION_IMAGES}]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Chooses other images.  [default: 0]")] = None,
    test: Annotated[bool, typer.Option("--test", help="Write down test images instead: all, or --images.")] = False,
    version: Annotated[str, typer.Option(help="The version of a test set.  [default: 1]")] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Choose the images to calibrate with, and write them down.

    The manifest holds each image's name and sha256; a recipe names it as data.calibration, or as data.test.
    """
    from edgecnn.artifact.write import check_output
    from edgecnn.data.calibration_set import write_manifest

    check_output(output, ".txt")
    manifest = _manifest(data, output, images, seed, test, version)
    write_manifest(output, manifest)
    if as_json:
        print_json({"path": str(output), "n": len(manifest.ids), "sha256": manifest.sha256, "source": manifest.source})
    else:
        say(f"{output}: {len(manifest.ids)} images of {manifest.source}")


def _manifest(data: str, output: Path, images: int | None, seed: int | None, test: bool, version: str) -> Manifest:
    from edgecnn.data.calibration_rule import choose
    from edgecnn.data.calibration_set import find_calibration_set, make_test_set, manifest_of
    from edgecnn.errors import RecipeError

    rule = next((data.partition(f"{suffix}:") for suffix in (".toml", ".txt") if f"{suffix}:" in data), None)
    if version and not test:
        raise RecipeError(f"--version {version}: a calibration set has none", "it is for test sets: --test")
    if rule is None:
        if test:
            return make_test_set(data, output.stem, version or "1", images, seed or 0)
        return manifest_of(data, images or CALIBRATION_IMAGES, seed or 0)
    given = {"--images": images is not None, "--seed": seed is not None, "--test": test}
    if named := [option for option, is_given in given.items() if is_given]:
        raise RecipeError(f"{', '.join(named)}: {data} says which images", "leave them out, or name the data alone")
    return choose(find_calibration_set(rule[0] + rule[1].removesuffix(":")), rule[2])
