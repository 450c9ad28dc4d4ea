"""Rules on load time, first query and device memory: PASS, FAIL, and open where nothing was measured."""

from __future__ import annotations

from typing import Any

import pytest

from edgecnn.gate.judge import judge
from edgecnn.recipe.schema import Tolerances
from edgecnn.results.engine import CPU_PROVIDER, EngineInfo
from edgecnn.results.report import Measurement
from edgecnn.results.startup import Startup

FIGURES = {"device_memory_mb": 120.0, "load_s": 0.5, "first_query_ms": 9.0}


def row(startup: Startup | None, engine: EngineInfo | None = None) -> Measurement:
    return Measurement(name="int8", engine=engine or EngineInfo(backend="trt"), startup=startup)


@pytest.mark.parametrize("figure", FIGURES)
def test_within_beyond_and_open(figure: str) -> None:
    found, limit = Startup(**FIGURES), FIGURES[figure]

    def verdict_of(most: float, measurement: Measurement) -> tuple[str, str]:
        limits: dict[str, Any] = {f"{figure}_max": most}
        (check,) = judge(Tolerances(**limits), [measurement]).checks
        assert check.tolerance == f"{figure}_max"
        return check.verdict, check.evidence

    assert verdict_of(limit, row(found))[0] == "PASS"
    outcome, evidence = verdict_of(limit * 0.99, row(found))
    assert outcome == "FAIL"
    assert evidence.endswith("measured once")
    assert f"{limit:g}" in evidence
    outcome, evidence = verdict_of(limit, row(None))
    assert outcome == "INCONCLUSIVE"
    assert evidence.startswith("not measured")


def test_a_processor_has_no_device_memory() -> None:
    (check,) = judge(Tolerances(device_memory_mb_max=100.0), [row(Startup(0.1, 1.0))]).checks
    assert (check.verdict, check.name) == ("INCONCLUSIVE", "all")
    assert "a CPU engine has none" in check.evidence


def test_what_is_simulated_is_not_judged_by_its_time() -> None:
    simulated = EngineInfo(backend="ort", provider=CPU_PROVIDER, precision_requested="int8", scheme="tensorrt")
    (check,) = judge(Tolerances(load_s_max=0.001), [row(Startup(0.5, 1.0), simulated)]).checks
    assert check.verdict == "INCONCLUSIVE"


def test_the_figures_are_in_the_measurement() -> None:
    assert {key: row(Startup(**FIGURES)).figure(key) for key in FIGURES} == FIGURES
