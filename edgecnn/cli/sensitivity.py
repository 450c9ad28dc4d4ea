"""`edgecnn sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgecnn.cli.options import IMAGES, JSON, MAKING_THREADS, MOST_IMAGES
from edgecnn.cli.printing import print_json
from edgecnn.cli.progress import Counter
from edgecnn.output import print_lines, say

EXAMPLES = """
edgecnn sensitivity runs/lenet5-digits/model.fp32.onnx --ranges runs/lenet5-digits/model.calib.json --data digits
"""


def sensitivity(
    graph: Annotated[Path, typer.Argument(help="A float32 graph, X.onnx.")],
    ranges: Annotated[Path, typer.Option(help="The ranges of this graph, X.calib.json.")],
    data: Annotated[str, IMAGES],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write.  [default: X.sensitivity.json beside the graph; none with --node]",
            show_default=False,
        ),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw the nodes as bars: X.svg.")] = None,
    node: Annotated[list[str] | None, typer.Option(help="Only this node, by its name; repeatable.")] = None,
    images: Annotated[int, MOST_IMAGES] = 32,
    method: Annotated[
        Literal["minmax", "percentile", "entropy", "mse"], typer.Option(help="How ranges become scales.")
    ] = "mse",
    threads: Annotated[int | None, MAKING_THREADS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Rank the nodes by what INT8 costs in them.

    The weights and the activations of each, alone in the float graph, and left
    alone out of the INT8 graph for TensorRT. Interrupted, the same command goes
    on where it stopped.
    """
    from edgecnn.artifact.write import check_output, write_bytes
    from edgecnn.records import to_plain
    from edgecnn.report.charts.sensitivity import sensitivity_svg
    from edgecnn.report.sensitivity import sensitivity_table
    from edgecnn.steps.sensitivity import sensitivity as step

    if svg is not None:
        check_output(svg, ".svg", graph, ranges, option="--svg")
    found = step(
        graph,
        output,
        ranges=ranges,
        data=data,
        images=images,
        method=method,
        nodes=node or (),
        threads=threads,
        progress=Counter("sensitivity", "trials"),
    )
    if svg is not None:
        write_bytes(svg, sensitivity_svg(found).encode())
    if as_json:
        print_json(to_plain(found))
        return
    print_lines(sensitivity_table(found).split("\n"))
    if svg is not None:
        say(f"{svg}: written")
