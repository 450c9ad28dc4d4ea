"""Which of two INT8 engines is recommended: the faster of those that pass."""

from __future__ import annotations

from typing import Any

import pytest

from edgecnn.gate.recommendation import recommended_int8
from edgecnn.results.engine import EngineInfo
from edgecnn.results.latency import LatencyRatio
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome, Verdict

WEAK = "int8-implicit"


def measured(name: str, ratio: tuple[float, float] | None, scheme: Any = "tensorrt") -> Measurement:
    found = None if ratio is None else LatencyRatio("pytorch-cuda", sum(ratio) / 2, ratio, 20)
    return Measurement(
        name=name, engine=EngineInfo(precision_requested="int8", scheme=scheme), accuracy=None, ratio=found
    )


@pytest.mark.parametrize(
    ("explicit", "implicit", "outcomes", "says"),
    [
        ((0.5, 0.52), (0.4, 0.42), ("PASS", "PASS"), f"{WEAK} is recommended: both pass, and it is the faster"),
        ((0.3, 0.32), (0.4, 0.42), ("PASS", "PASS"), "int8 is recommended: both pass, and it is the faster"),
        ((0.4, 0.43), (0.4, 0.42), ("PASS", "PASS"), "int8 is recommended: both pass, neither is measurably"),
        ((0.5, 0.52), (0.4, 0.42), ("PASS", "FAIL"), f"int8 is recommended: {WEAK} does not pass"),
        ((0.3, 0.32), (0.4, 0.42), ("INCONCLUSIVE", "PASS"), f"{WEAK} is recommended: int8 does not pass"),
        ((0.3, 0.32), (0.4, 0.42), ("FAIL", "FAIL"), "none is recommended"),
        (None, (0.4, 0.42), ("PASS", "PASS"), "int8 is recommended: the two were not timed in turn"),
    ],
)
def test_the_faster_that_passes_is_recommended(
    explicit: tuple[float, float] | None,
    implicit: tuple[float, float],
    outcomes: tuple[Outcome, Outcome],
    says: str,
) -> None:
    rows = [measured("int8", explicit), measured(WEAK, implicit, "implicit")]
    checks = [
        Check(m.name, "top1_drop_pp_max", None, None, 1.0, outcome, "")
        for m, outcome in zip(rows, outcomes, strict=True)
    ]
    assert says in recommended_int8(rows, Verdict(tuple(checks)))
    assert recommended_int8(rows[:1], Verdict(tuple(checks))) == ""
