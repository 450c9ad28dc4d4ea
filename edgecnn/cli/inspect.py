"""`edgecnn inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import ALLOWED, JSON, REQUIRE_SIGNATURE
from edgecnn.cli.printing import print_facts, print_json

EXAMPLES = """
edgecnn inspect runs/lenet5-digits/model.fp32.onnx
edgecnn inspect runs/lenet5-digits/cpu/int8.accuracy.json
"""


def inspect(
    file: Annotated[Path, typer.Argument(help="An artifact: .safetensors, .onnx, .plan, .npz or .json.")],
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say what a file is, from its header and its sidecar."""
    from edgecnn.inspection.artifact import describe

    facts = describe(file)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)
