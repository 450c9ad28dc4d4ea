"""The last line of what a person reads."""

from __future__ import annotations

from edgecnn.recipe.schema import Recipe
from edgecnn.report.terminal import closing_line
from edgecnn.results.device import Device
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import Check, Outcome, Verdict
from edgecnn.steps.report import report_of_unmeasured


def judged(target: str, *outcomes: Outcome) -> RunReport:
    """A target whose checks came out so."""
    checks = tuple(Check("int8", f"t{k}", None, None, None, outcome, "") for k, outcome in enumerate(outcomes))
    return RunReport(
        recipe="r",
        title="",
        target=target,
        device=Device(),
        device_key="",
        reference=None,
        measurements=(),
        verdict=Verdict(checks),
        artifacts=(),
        notes=(),
    )


def test_it_counts_what_failed_and_what_stayed_open_by_name() -> None:
    assert closing_line([judged("cpu", "PASS", "PASS")]) == "all 2 checks passed"
    assert closing_line([judged("cpu")]) == "nothing was checked"
    assert closing_line([judged("cpu", "FAIL")]) == "1 of 1 check failed: int8 t0"
    mixed = judged("cpu", "FAIL", "PASS", "INCONCLUSIVE", "FAIL")
    assert closing_line([mixed]) == "2 of 4 checks failed: int8 t0, int8 t3; 1 inconclusive: int8 t2"
    both = [judged("cpu", "FAIL"), report_of_unmeasured("agx-orin", Recipe())]
    assert closing_line(both) == "1 of 2 checks failed: cpu int8 t0; 1 inconclusive: agx-orin not measured"
