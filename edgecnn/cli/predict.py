"""`edgecnn predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import ALLOWED, JSON, REQUIRE_SIGNATURE, SKIP_CORRUPT, THREADS, TRUST
from edgecnn.cli.printing import print_json
from edgecnn.errors import EdgecnnError
from edgecnn.output import print_line, say

EXAMPLES = """
edgecnn predict runs/lenet5-digits/cpu/int8.onnx three.png seven.png  # needs images
"""


def predict(
    engine: Annotated[Path, typer.Argument(help="A .plan, or an .onnx, with its sidecar.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    threads: Annotated[int | None, THREADS] = None,
    trust: Annotated[bool, TRUST] = False,
    skip_corrupt: Annotated[bool, SKIP_CORRUPT] = False,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Classify images: the five most probable classes of each."""
    from edgecnn.inspection.predict import classify

    left_out = dict[Path, str]()

    def leave_out(path: Path, error: EdgecnnError) -> None:
        left_out[path] = error.message

    rows = classify(engine, images, threads, trust, leave_out if skip_corrupt else None)
    if left_out:
        say(f"{len(left_out)} of {len(images)} images left out, the first: {next(iter(left_out.values()))}")
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(row["image"])
        for entry in row["top5"]:
            print_line(f"  {100 * entry['probability']:5.1f} %  {entry['label']}")
