"""`edgecnn qualify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON, RUN, RUN_RECIPE, THREADS
from edgecnn.cli.printing import print_json, print_report
from edgecnn.output import print_text, say

EXAMPLES = """
edgecnn qualify runs/lenet5-digits --python .venv-new/bin/python  # needs a second environment
"""


def qualify(
    run: Annotated[str, RUN],
    python: Annotated[Path, typer.Option(help="The interpreter of the other environment, with edgecnn in it.")],
    recipe: Annotated[str, RUN_RECIPE] = "",
    threads: Annotated[int | None, THREADS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Say whether a run's engines may move to another TensorRT.

    Its graphs are built, run and timed under this interpreter and under the other one, on the same pixels and in turn.

    Exit code 0: nothing is lost, 1: something is, 3: not all could be told.
    """
    from edgecnn.pipeline.qualify import qualify as compare
    from edgecnn.records import to_plain
    from edgecnn.report.terminal import closing_line
    from edgecnn.results.report import RunReport

    found = compare(run, python, recipe=recipe, threads=threads, say=say)
    if as_json:
        print_json(to_plain(found))
        return found.verdict.exit_code
    shown = RunReport(
        recipe=found.recipe,
        title="",
        target=found.target,
        device=found.after.device,
        device_key=found.after.device.key,
        reference=found.before.in_words,
        measurements=found.measurements,
        verdict=found.verdict,
        artifacts=(),
        notes=(f"{found.after.in_words} against {found.before.in_words}: drops and ratios are from one to the other",),
    )
    print_report(shown)
    print_text(closing_line([shown]))
    return found.verdict.exit_code
