"""`edgecnn explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecnn.cli.options import JSON, RUN, RUN_RECIPE
from edgecnn.cli.printing import print_json
from edgecnn.output import print_verdicts, say

EXAMPLES = """
edgecnn explain runs/lenet5-digits
edgecnn explain runs/lenet5-digits --engine int8-tensorrt
"""


def explain(
    run: Annotated[str, RUN],
    engine: Annotated[str, typer.Option(help="The engine, as the gate names it.  [default: what fares worst]")] = "",
    recipe: Annotated[str, RUN_RECIPE] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say why an engine lost accuracy, in one page.

    The drop, the stage that lost it, layers, classes and images, and commands to
    try next. It reads what is in the run folder and measures nothing.
    """
    from edgecnn.diagnose.explain import explain as find
    from edgecnn.pipeline.find import find_all_judged, find_run, rerun_arguments
    from edgecnn.records import to_plain
    from edgecnn.report.explanation_page import explanation_page

    judged_by, runs = find_run(run, recipe, say)
    found = find(find_all_judged(run, judged_by, runs), judged_by, rerun_arguments(run, judged_by, runs), engine)
    if as_json:
        print_json(to_plain(found))
    else:
        print_verdicts(explanation_page(found).split("\n"))
