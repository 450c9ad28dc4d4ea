"""The rule on energy: by its interval, and open where no sensor told it."""

from __future__ import annotations

import pytest

from edgecnn.gate.judge import judge
from edgecnn.recipe.schema import Tolerances
from edgecnn.results.energy import Energy
from edgecnn.results.engine import CPU_PROVIDER, EngineInfo
from edgecnn.results.report import Measurement
from tests.fakes.measurements import energy


def verdict_of(limit: float, found: Energy | None, engine: EngineInfo | None = None) -> tuple[str, str]:
    row = Measurement(name="int8", engine=engine or EngineInfo(backend="trt"), energy=found)
    (check,) = judge(Tolerances(joules_per_inference_max=limit), [row]).checks
    assert check.tolerance == "joules_per_inference_max"
    return check.verdict, check.evidence


@pytest.mark.parametrize(("limit", "outcome"), [(0.025, "PASS"), (0.0249, "INCONCLUSIVE"), (0.0189, "FAIL")])
def test_by_its_interval(limit: float, outcome: str) -> None:
    found, evidence = verdict_of(limit, energy(0.022, (0.019, 0.025)))
    assert found == outcome
    for said in ("0.022 J per inference above 3.00 W idle", "VDD_IN", "[0.019, 0.025]", "6 blocks"):
        assert said in evidence
    assert ("longer --duration" in evidence) == (outcome == "INCONCLUSIVE")


def test_open_without_interval_without_sensor_and_for_a_simulation() -> None:
    assert verdict_of(1.0, energy(0.022, None))[0] == "INCONCLUSIVE"
    outcome, evidence = verdict_of(1.0, None)
    assert outcome == "INCONCLUSIVE"
    assert evidence.startswith("not measured: bench it on a Jetson")
    simulated = EngineInfo(backend="ort", provider=CPU_PROVIDER, precision_requested="int8", scheme="tensorrt")
    assert verdict_of(1.0, energy(0.022, (0.019, 0.025)), simulated)[0] == "INCONCLUSIVE"
    row = Measurement(name="int8", engine=EngineInfo(), energy=energy(0.022, None))
    assert row.figure("joules_per_inference") == 0.022
