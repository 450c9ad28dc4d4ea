"""`edgecnn compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import print_verdicts, say

EXAMPLES = """
edgecnn compare runs/lenet5-digits runs/lenet5-digits
edgecnn compare runs/a runs/b -o compared.html  # needs two runs
"""


def compare(
    runs: Annotated[list[str], typer.Argument(help="Run folders, targets of them, or recipes.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the comparison as a page, X.html.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Put runs on the same images side by side.

    Top-1 with its interval, the drop from the first run, paired, latency and size;
    simulated engines carry no latency.
    """
    from edgecnn.artifact.write import check_output, write_bytes
    from edgecnn.pipeline.find import find_columns
    from edgecnn.records import to_plain
    from edgecnn.report.compare import compare as put_side_by_side
    from edgecnn.report.compare import comparison_html, comparison_text

    if output is not None:
        check_output(output, ".html")
    found = put_side_by_side(find_columns(runs, say))
    if output is not None:
        write_bytes(output, comparison_html(found).encode())
    if as_json:
        print_json(to_plain(found))
        return
    print_verdicts(comparison_text(found).split("\n"))
    if output is not None:
        say(f"{output}: written")
