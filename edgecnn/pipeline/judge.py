"""Judge one target of a run that was measured before."""

from __future__ import annotations

import os
from pathlib import Path

from edgecnn.errors import MeasurementError
from edgecnn.pipeline.find import find_run
from edgecnn.results.verdict import Verdict
from edgecnn.steps import gate as step


def judge(run: str | os.PathLike[str], recipe: str | os.PathLike[str] = "", *, record: bool = False) -> Verdict:
    """Judge a run folder, one of its targets, or a recipe's run by the recipe's tolerances and the device's baseline.

        import edgecnn as ec
        verdict = ec.judge("runs/lenet5-digits")
        verdict.verdict, [check.evidence for check in verdict.checks]

    Nothing is measured again; the verdict is written as verdict.json beside the measurements. `recipe` is left out
    where the results name it; with `record` the numbers are the baseline from then on. Raises `MeasurementError` for a
    run of several targets, for one that is not measured, or not with the recipe's settings; `RecipeError` where the
    recipe is not to be found.
    """
    judged_by, runs = find_run(os.fspath(run), os.fspath(recipe))
    if len(runs) != 1:
        raise MeasurementError(
            f"{Path(run)}: several targets were measured there", f"name one: {', '.join(str(r.folder) for r in runs)}"
        )
    verdict = step.gate(runs[0], judged_by, against_baseline=not record)
    if record:
        step.record(runs[0], judged_by, verdict)
    return verdict
