"""`edgecnn calibration-set`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, say
from edgecnn.steps import CALIBRATION_IMAGES

EXAMPLES = """
edgecnn calibration-set digits --images 100 -o mine.txt
edgecnn calibration-set /data/imagenet -o calibration/imagenet.txt  # needs data
"""


def calibration_set(
    data: Annotated[str, typer.Argument(help="Whose training images: a data set, a folder, or an .npz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest, calibration/NAME.txt.")],
    images: Annotated[int, typer.Option(min=1, help="How many images, spread over the classes.")] = CALIBRATION_IMAGES,
    seed: Annotated[int, typer.Option(min=0, help="Chooses other images.")] = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Choose the images to calibrate with, and write them down.

    The manifest holds each image's name and sha256; a recipe names it as data.calibration.
    """
    from edgecnn.artifact.write import check_output
    from edgecnn.data.calibration_set import manifest_of, write_manifest

    check_output(output, ".txt")
    manifest = manifest_of(data, images, seed)
    write_manifest(output, manifest)
    if as_json:
        print_json({"path": str(output), "n": len(manifest.ids), "sha256": manifest.sha256, "source": data})
    else:
        say(f"{output}: {len(manifest.ids)} images of {data}")
