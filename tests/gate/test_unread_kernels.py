"""INT8 on TensorRT-RTX: what its kernels compute nobody can read, so nothing is said of it."""

from __future__ import annotations

import pytest

from edgecnn.gate.judge import judge
from edgecnn.recipe.schema import Tolerances
from edgecnn.results.engine import EngineFacts, EngineInfo
from tests.fakes.measurements import latency, measurement

COMPILED = EngineFacts(size_mb=1.0, shares_by="compiled_at_load")


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_int8_is_inconclusive_and_fp16_is_judged(precision: str) -> None:
    engine = EngineInfo(backend="trt-rtx", provider="TensorRT-RTX", precision_requested=precision, target="rtx")
    one = measurement(precision, engine=engine, facts=COMPILED, latency=latency(precision))
    verdict = judge(Tolerances(latency_ms_p99_max=5.0, int8_share_pct_min=90.0), [one])
    outcomes = {check.tolerance: check.verdict for check in verdict.checks if check.name == precision}
    if precision == "int8":
        assert outcomes["latency_ms_p99_max"] == outcomes["precision_obtained"] == "INCONCLUSIVE"
        assert outcomes["int8_share_pct_min"] == "INCONCLUSIVE"
    else:
        assert outcomes["latency_ms_p99_max"] == "PASS"
        assert "precision_obtained" not in outcomes
