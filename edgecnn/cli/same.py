"""`edgecnn same`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import ALLOWED, JSON, REQUIRE_SIGNATURE, THREADS, TRUST
from edgecnn.cli.printing import print_json, stdout_kept
from edgecnn.output import print_line

EXAMPLES = """
edgecnn same runs/lenet5-digits-verify/cpu/int8.onnx a.png b.png  # needs images
"""


def same(
    engine: Annotated[Path, typer.Argument(help="An embedding engine: a .plan, or an .onnx, with its sidecar.")],
    first: Annotated[Path, typer.Argument(help="An image.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    threads: Annotated[int | None, THREADS] = None,
    trust: Annotated[bool, TRUST] = False,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Tell whether two images are of one class.

    Their embeddings' squared distance is held against the threshold that validation pairs chose.
    """
    from edgecnn.inspection.same import same as compare
    from edgecnn.records import to_plain

    with stdout_kept():
        found = compare(engine, first, second, threads=threads, trust=trust)
    if as_json:
        print_json(to_plain(found))
        return
    word = "same class" if found.same else "different classes"
    print_line(f"{word}: squared distance {found.distance:.4f}, threshold {found.threshold:.4f}")
