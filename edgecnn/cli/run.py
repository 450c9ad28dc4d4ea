"""`edgecnn run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import CALIBRATION_DATA, JSON, RECIPE, RECIPE_DATA, SET, TARGETS, THREADS, TRUST_CODE
from edgecnn.cli.printing import print_json, say
from edgecnn.cli.progress import counter
from edgecnn.steps import StepName

EXAMPLES = """
edgecnn run lenet5-digits
edgecnn run mine.toml --trust-code  # needs a recipe with model.python
edgecnn run lenet5-digits --target cpu
edgecnn run lenet5-digits --set train.epochs=1 --until quantize --out runs/quick
edgecnn run resnet20-cifar10-orin --data DIR --set model.weights=FILE  # needs images and weights
"""


def run(
    recipe: Annotated[str, RECIPE],
    until: Annotated[StepName, typer.Option(help="Stop after this step.")] = "report",
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    data: Annotated[str, RECIPE_DATA] = "",
    calibration_data: Annotated[str, CALIBRATION_DATA] = "",
    target: Annotated[list[str] | None, TARGETS] = None,
    set_: Annotated[list[str] | None, SET] = None,
    threads: Annotated[int | None, THREADS] = None,
    trust_code: Annotated[bool, TRUST_CODE] = False,
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Bring a recipe up to date, from training to the verdict.

    Only what is stale is made again, and why is said. A target that is not this machine is prepared up to its graphs.
    Exit code 0: passed, 1: failed, 3: not all could be told or measured.
    """
    from edgecnn.pipeline.find import run_folder
    from edgecnn.pipeline.run import run_recipe
    from edgecnn.recipe.load import load_recipe
    from edgecnn.records import to_plain
    from edgecnn.report.terminal import closing_line, terminal_report

    loaded = load_recipe(recipe, set_ or (), data=data, calibration_data=calibration_data)
    outcome = run_recipe(
        loaded,
        run_folder(loaded, out),
        say,
        until=until,
        targets=target or (),
        threads=threads,
        trust_code=trust_code,
        progress=lambda step: counter(step, "images"),
    )
    if as_json:
        reports, missing = to_plain(outcome.reports), to_plain(outcome.elsewhere)
        print_json({"folder": str(outcome.folder), "done": outcome.done, "reports": reports, "not_measured": missing})
        return outcome.exit_code
    for found in outcome.reports:
        print(terminal_report(found))
        say(f"the whole report: {outcome.folder / found.target / 'report.md'}")
    for one in outcome.elsewhere:
        print(one)
    if outcome.reports:
        print(closing_line(outcome.reports))
    return outcome.exit_code
