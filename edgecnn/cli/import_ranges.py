"""`edgecnn import-ranges`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import say

EXAMPLES = """
edgecnn import-ranges CalibrationTable --graph model.fp32.onnx -o model.calib.json  # needs a cache of TensorRT's
"""


def import_ranges(
    cache: Annotated[Path, typer.Argument(help="A calibration cache that TensorRT wrote.")],
    graph: Annotated[Path, typer.Option(help="The float32 graph that it was made from.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The ranges to write.  [default: beside the graph]")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Read an old calibration cache as ranges.

    Its scales are taken to the bit, and `quantize` makes Q/DQ pairs of them.
    """
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.steps import import_ranges as step

    path = step.import_ranges(cache, graph, output)
    tensors = read_ranges(path).tensors.values()
    rows = [{"name": s.name, "scale": s.scale, "max": s.high} for s in tensors]
    if as_json:
        print_json({"path": str(path), "tensors": rows})
    else:
        print_rows(rows, ["name", "scale", "max"])
        say(f"{path}: {len(rows)} tensors of {cache}")
