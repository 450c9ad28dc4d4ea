"""`edgecnn check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.completion import complete_target
from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import print_text

EXAMPLES = """
edgecnn check runs/lenet5-digits/model.fp16.onnx
edgecnn check model.onnx --target agx-orin  # needs a graph
edgecnn check runs/lenet5-digits/model.fp32.onnx --target agx-orin --dla
"""


def check(
    graph: Annotated[Path, typer.Argument(help="An ONNX graph.")],
    target: Annotated[
        str, typer.Option(help="The device; `edgecnn targets` lists them.", autocompletion=complete_target)
    ] = "gpu",
    dla: Annotated[
        bool, typer.Option("--dla", help="List what the device's DLA leaves to the GPU; never run on one.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Say what TensorRT will say to a graph.

    Our rules for each release, and NVIDIA's own parser and builder where one is
    installed (`edgecnn[rtx]` needs no GPU). The exit code is 2 where one refuses.
    """
    from edgecnn.inspection.check import check_graph
    from edgecnn.records import to_plain

    found = check_graph(graph, target, dla=dla)
    if as_json:
        print_json({**to_plain(found), "refused": found.refused})
        return 2 if found.refused else 0
    print_text(f"asked: {', '.join(found.asked)}")
    for reason in found.not_asked:
        print_text(f"not asked: {reason}")
    for finding in found.findings:
        print_text(f"{finding.severity}: {finding.where}: {finding.what}  [{', '.join(finding.sources)}]")
        print_text(f"  hint: {finding.hint}")
    if not found.findings:
        print_text("nothing against it")
    return 2 if found.refused else 0
