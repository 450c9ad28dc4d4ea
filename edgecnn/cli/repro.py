"""`edgecnn repro`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import print_text, say

EXAMPLES = """
edgecnn repro model.int8.onnx  # needs a graph, and a TensorRT that refuses it
edgecnn repro model.int8.onnx --backend trt-rtx -o for-nvidia  # needs a TensorRT that refuses it
"""


def repro(
    graph: Annotated[Path, typer.Argument(help="An ONNX graph that NVIDIA's parser or builder refuses.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder to write.  [default: GRAPH.repro]")
    ] = None,
    backend: Annotated[str, typer.Option(help="Ask this one: trt, trt-rtx.  [default: each that is installed]")] = "",
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Reduce what NVIDIA refuses to the part that fails.

    The folder holds the smallest graph that fails alike, with random weights and
    other names, a script that shows the failure, and a report with versions: what
    NVIDIA asks for in a bug report. Read it before you send it.
    """
    from edgecnn.diagnose.repro import reduce_failure
    from edgecnn.records import to_plain

    found = reduce_failure(graph, output, backend, say)
    if as_json:
        print_json({**to_plain(found), "nodes": found.nodes})
        return 0
    print_text(f"{found.folder}: {found.nodes} of {found.nodes_before} nodes ({found.trials} trials)")
    print_text(f"{found.by}: {found.said}")
    if not found.minimal:
        print_text("the time ran out: there may be a smaller one")
    if found.values_kept:
        print_text(f"kept, for the failure needs them: the values of {', '.join(found.values_kept)}")
    if found.names_kept:
        print_text("kept, for the failure needs them: the names")
    return 0
