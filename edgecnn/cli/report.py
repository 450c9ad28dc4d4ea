"""`edgecnn report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import RUN, RUN_RECIPE
from edgecnn.output import say

EXAMPLES = """
edgecnn report runs/lenet5-digits -o report.html
"""


def report(
    run: Annotated[str, RUN],
    output: Annotated[Path, typer.Option("-o", "--output", help="The report to write: .md, .html, .json or .xml.")],
    recipe: Annotated[str, RUN_RECIPE] = "",
) -> None:
    """Write the report of a judged run.

    The suffix names the format: Markdown, HTML, JSON, or JUnit XML.
    """
    from edgecnn.pipeline.find import find_judged
    from edgecnn.report import write_report
    from edgecnn.steps.report import report_of

    judged_by, judged = find_judged(run, recipe, output)
    write_report(output, report_of(judged, judged_by))
    say(f"{output}: written")
