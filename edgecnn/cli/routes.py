"""`edgecnn routes`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecnn.cli.completion import complete_target
from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import say

EXAMPLES = """
edgecnn routes --target cpu
edgecnn routes  # needs TensorRT
"""


def routes(
    target: Annotated[
        str, typer.Option(help="A device of `edgecnn targets`: what builds for it.", autocompletion=complete_target)
    ] = "gpu",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List the knobs of TensorRT's build routes.

    They are what `edgecnn build --build-route` and `edgecnn search --routes` take, of
    TensorRT 11.1 and later.
    """
    from edgecnn.backends import build_routes
    from edgecnn.records import to_plain

    found = build_routes(target)
    if as_json:
        print_json(to_plain(found))
        return
    if not found.knobs:
        say(f"{found.by} has no build routes: TensorRT has them from 11.1 on")
        return
    rows = [
        {"knob": knob.name, "values": " | ".join(knob.values) or "any", "default": knob.default} for knob in found.knobs
    ]
    print_rows(rows, ["knob", "values", "default"])
