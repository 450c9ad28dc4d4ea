"""A latency against its baseline: what fails, what passes, and what the machine may have done."""

from __future__ import annotations

from typing import Any

import pytest

from edgecnn.gate.baseline import baseline_of
from edgecnn.gate.judge import judge
from edgecnn.recipe.schema import Tolerances
from edgecnn.results.device import Device
from edgecnn.results.latency import Clocks
from edgecnn.results.rebuilds import Rebuilds
from edgecnn.results.verdict import Check
from tests.fakes.measurements import TENSORRT, engine, latency, measurement

HERE = Device(cpu="here")


def judged(now: dict[str, Any], before: dict[str, Any], **runtime: Any) -> Check:
    """The check of a latency of 1 ms, changed by `now`, against the same, changed by `before`; on a CPU or a `runtime`
    of one's own."""
    own = engine("int8", **runtime)
    old, new = (measurement(engine=own, latency=latency(**values)) for values in (before, now))
    (check,) = judge(Tolerances(), [new], baseline=baseline_of([old], HERE), device=HERE).checks
    assert check.tolerance == "baseline latency_ms_p50"
    return check


def at(ms: float, half: float = 0.01, **more: Any) -> dict[str, Any]:
    """A median and its interval."""
    return {"latency_ms_p50": ms, "latency_ms_p50_ci": (ms * (1 - half), ms * (1 + half)), **more}


@pytest.mark.parametrize(
    ("ms", "half", "outcome"),
    [
        (1.0, 0.01, "PASS"),
        (1.2, 0.01, "FAIL"),
        (1.2, 0.08, "INCONCLUSIVE"),
        (1.1, 0.01, "INCONCLUSIVE"),
        (0.5, 0.3, "PASS"),
    ],
)
def test_both_intervals_decide(ms: float, half: float, outcome: str) -> None:
    check = judged(at(ms, half), at(1.0))
    assert check.verdict == outcome
    if ms == 1.1:
        assert "a longer bench.duration_s tells more" in check.evidence
    wide = judged(at(ms, half), at(1.0, 0.09))
    assert wide.verdict in (outcome, "INCONCLUSIVE"), "a baseline that is less certain decides less"
    assert judged(at(1.12), at(1.0, 0.0)).verdict == "FAIL"
    assert judged(at(1.12), at(1.0, 0.05)).verdict == "INCONCLUSIVE"


UNSTABLE: dict[str, Any] = {"unstable": ("other work took 1.50 cores during the run",)}


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        (UNSTABLE, {}, "other work took 1.50 cores"),
        ({"yardstick_ms": 0.15}, {"yardstick_ms": 0.137}, "the processor itself was 9.5 % slower than at the baseline"),
        ({"clocks": Clocks(gpu_mhz=918)}, {"clocks": Clocks(gpu_mhz=1300)}, "the GPU clock was 918 MHz, 1300 at"),
    ],
)
def test_what_the_machine_may_have_done_is_no_failure(now: dict[str, Any], before: dict[str, Any], words: str) -> None:
    runtime = {**TENSORRT, "scheme": "tensorrt"} if "clocks" in now else {}
    check = judged(at(1.5, **now), at(1.0, **before), **runtime)
    assert check.verdict == "INCONCLUSIVE"
    assert words in check.evidence
    assert judged(at(1.0, **now), at(1.0, **before), **runtime).verdict == "PASS", "it makes nothing faster"
    assert judged(at(1.5, **before), at(1.0, **now), **runtime).verdict != "PASS"


GPU_WAS: dict[str, Any] = {"clocks": Clocks(gpu_mhz=900)}
GPU_IS: dict[str, Any] = {"clocks": Clocks(gpu_mhz=1300)}


def test_a_faster_machine_hides_no_slower_engine() -> None:
    """The same time on a machine that is 40 % faster: the engine itself became slower, or may have."""
    trt = {**TENSORRT, "scheme": "tensorrt"}
    for now, before, runtime in (
        ({"yardstick_ms": 0.1}, {"yardstick_ms": 0.14}, {}),
        (GPU_IS, GPU_WAS, trt),
    ):
        check = judged(at(1.0, **now), at(1.0, **before), **runtime)
        assert check.verdict == "INCONCLUSIVE"
        assert "faster than at the baseline" in check.evidence
        assert judged(at(0.6, **now), at(1.0, **before), **runtime).verdict == "PASS", "faster beyond that"
    assert judged(at(1.0, yardstick_ms=0.1), at(1.0, yardstick_ms=0.105)).verdict == "PASS"


def test_a_clock_of_a_gpu_says_nothing_of_an_engine_on_the_processor() -> None:
    assert judged(at(1.0, **GPU_IS), at(1.0, **GPU_WAS)).verdict == "PASS"
    assert judged(at(1.5, **GPU_WAS), at(1.0, **GPU_IS)).verdict == "FAIL"


def test_a_machine_that_became_faster_excuses_nothing() -> None:
    assert judged(at(1.5, yardstick_ms=0.1), at(1.0, yardstick_ms=0.2)).verdict == "FAIL"


def test_a_baseline_that_was_unstable_is_none() -> None:
    for ms in (0.5, 1.0, 1.5):
        check = judged(at(ms), at(1.0, **UNSTABLE))
        assert check.verdict == "INCONCLUSIVE"
        assert "record it again" in check.evidence


def test_no_rule_looks_at_a_maximum() -> None:
    """Whatever the slowest query took, no check of a latency changes: neither its verdict nor its evidence."""
    trt = engine("int8", **{**TENSORRT, "scheme": "tensorrt"})
    found = []
    for slowest in (1.3, 5000.0):
        new = measurement(engine=trt, latency=latency(latency_ms_max=slowest))
        tolerances = Tolerances(latency_ms_p99_max=1.2, latency_ratio_max=1.0)
        checks = judge(tolerances, [new], baseline=baseline_of([new], HERE), device=HERE).checks
        found.append([c for c in checks if "latency" in c.tolerance])
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_a_baseline_of_before_has_no_interval_and_is_read() -> None:
    old = measurement(latency=latency(**at(1.0)))
    baseline = baseline_of([old], HERE)
    object.__setattr__(baseline.engines["int8"], "latency_ms_p50_ci", None)
    for ms, outcome in ((1.0, "PASS"), (1.2, "FAIL")):
        new = measurement(latency=latency(**at(ms)))
        (check,) = judge(Tolerances(), [new], baseline=baseline, device=HERE).checks
        assert check.verdict == outcome


@pytest.mark.parametrize(("ms", "outcome"), [(1.0, "PASS"), (1.15, "PASS"), (1.3, "INCONCLUSIVE"), (1.4, "FAIL")])
def test_one_no_slower_than_the_slowest_accepted_build_did_not_become_slower(ms: float, outcome: str) -> None:
    """Of three builds from 0.98 to 1.2 ms, whose median was kept."""
    own = engine("int8")
    old = measurement(engine=own, latency=latency(**at(1.0)), rebuilds=Rebuilds(3, 2, (0.98, 1.0, 1.2)))
    new = measurement(engine=own, latency=latency(**at(ms)))
    (check,) = judge(Tolerances(), [new], baseline=baseline_of([old], HERE), device=HERE).checks
    assert check.verdict == outcome
    assert "whose slowest build took 1.2" in check.evidence
    assert judged(at(ms), at(1.0)).verdict == ("PASS" if ms == 1.0 else "FAIL"), "one build accepted: as ever"
