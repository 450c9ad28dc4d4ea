"""Energy of queries from readings whose watts are known, and beside queries that run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import MeasurementError
from edgecnn.machine.power_sensor import PowerSensor
from edgecnn.measure import energy
from edgecnn.measure.energy import Readings, energy_of, measure_with_energy, require_energy
from edgecnn.measure.samples import Stretch
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.device import Device
from edgecnn.results.latency import LatencyFile, LatencyRow
from tests.fakes.measurements import latency

RAILS = PowerSensor("rails", ("GPU", "CPU"), lambda: None)
COUNTER = PowerSensor("counter", ("GPU",), lambda: None, counts_energy=True)
AVERAGED = PowerSensor("averaged", ("GPU",), lambda: None, averages_s=1.0)
IDLE = ((0.0, 1.0), (4.1, 5.1))
RUN = tuple(Stretch(1.0 + 0.5 * k, 1.49 + 0.5 * k, 100) for k in range(6))  # 4.9 ms a query


def read(watts: Callable[[float], Sequence[float]], rails: tuple[str, ...] = ("GPU", "CPU", "part")) -> Readings:
    at_s = np.arange(0, 5.15, 0.01)
    return Readings(at_s, np.array([watts(t) for t in at_s], float), rails, 0.05)


def running(t: float) -> bool:
    return 1.0 <= t < 4.05


def test_joules_above_idle_of_the_rails_that_are_added() -> None:
    found = energy_of(RAILS, read(lambda t: (12.0, 3.0, 7.0) if running(t) else (2.0, 1.0, 7.0)), RUN, IDLE, batch=4)
    assert found.power_w == pytest.approx(15, rel=0.01)
    assert found.idle_power_w == pytest.approx(3, rel=0.05)
    assert found.joules_per_inference == pytest.approx(12 * 0.0049, rel=0.02)
    assert found.joules_per_inference_with_idle == pytest.approx(15 * 0.0049, rel=0.01)
    assert found.joules_per_1000_images == pytest.approx(250 * found.joules_per_inference)
    assert found.power_w_by_rail == pytest.approx({"GPU": 12, "CPU": 3, "part": 7}, rel=0.01)
    assert found.energy_blocks == 6
    assert found.power_sampling_pct == pytest.approx(100 * 0.05 / 5.14)
    for said in ("GPU + CPU", "rails", "a meter at the wall reads more"):
        assert said in found.source
    assert "idle, which is taken off" in found.in_words


def test_what_happens_between_the_stretches_belongs_to_no_query() -> None:
    def watts(t: float) -> tuple[float, ...]:
        pause = running(t) and (t - 1.0) % 0.5 >= 0.492
        return (100.0 if pause else 10.0 if running(t) else 0.0, 0.0, 0.0)

    found = energy_of(RAILS, read(watts), RUN, IDLE, batch=1)
    assert found.power_w < 12, "a third of what the pauses would add"


def test_a_counter_of_joules_gives_the_same_as_watts() -> None:
    watts = read(lambda t: (10.0,) if running(t) else (4.0,), ("GPU",))
    counted = Readings(watts.at_s, 9e6 + np.cumsum(watts.values, axis=0) * 0.01, ("GPU",), 0.0)
    found = energy_of(COUNTER, counted, RUN, IDLE, batch=1)
    assert found.joules_per_inference == pytest.approx(6 * 0.0049, rel=0.03)
    still = Readings(watts.at_s, np.full_like(watts.values, 9e6), ("GPU",), 0.0)
    with pytest.raises(MeasurementError, match="did not move"):
        energy_of(COUNTER, still, RUN, IDLE, batch=1)


def test_the_interval_holds_the_truth_in_95_of_100_runs_and_spans_the_idle_before_and_after() -> None:
    """Block by block the power scatters; between the two idle times it moves."""
    rng = np.random.default_rng(0)
    hit = 0
    for _ in range(300):
        of_block = rng.normal(10, 1, 12)
        found = energy_of(
            RAILS, read(lambda t, p=of_block: (p[int(t / 0.5)], 0, 0) if running(t) else (2, 0, 0)), RUN, IDLE, batch=1
        )
        assert found.joules_per_inference_ci is not None
        hit += found.joules_per_inference_ci[0] <= 8 * 0.0049 <= found.joules_per_inference_ci[1]
    assert 270 <= hit <= 297
    drifted = energy_of(
        RAILS, read(lambda t: (10, 0, 0) if running(t) else (2 if t < 2 else 4, 0, 0)), RUN, IDLE, batch=1
    )
    assert (drifted.idle_power_w_before, drifted.idle_power_w_after) == pytest.approx((2, 4), rel=0.05)
    assert drifted.joules_per_inference_ci is not None
    low, high = drifted.joules_per_inference_ci
    assert low <= 6 * 0.0049 * 1.02
    assert high >= 8 * 0.0049 * 0.98


def test_what_the_readings_do_not_carry_is_not_measured() -> None:
    steady = read(lambda t: (10, 0, 0) if running(t) else (2, 0, 0))
    one = energy_of(RAILS, steady, RUN[:1], IDLE, batch=1)
    assert (one.joules_per_inference_ci, one.joules_per_1000_images_ci) == (None, None)
    gap = (steady.at_s < 2) | (steady.at_s > 2.9)
    with pytest.raises(MeasurementError, match="could not be read for 0.9 s"):
        energy_of(RAILS, Readings(steady.at_s[gap], steady.values[gap], steady.rails, 0), RUN, IDLE, batch=1)
    for run in (RUN, RUN[:1]):
        with pytest.raises(MeasurementError, match="less power while queries ran"):
            energy_of(RAILS, read(lambda t: (1, 0, 0) if running(t) else (5, 0, 0)), run, IDLE, batch=1)
    late = read(lambda t: (min(10, 10 * (t - 1)),) if running(t) else (0,), ("GPU",))
    assert energy_of(AVERAGED, late, RUN, IDLE, batch=1).power_w == pytest.approx(10, rel=0.01), (
        "its first second is not"
    )
    with pytest.raises(MeasurementError, match="too short for a sensor that averages"):
        energy_of(AVERAGED, late, RUN[:2], IDLE, batch=1)


def test_beside_queries_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "IDLE_S", 0.1)
    monkeypatch.setattr(energy, "SETTLE_S", 0.05)
    monkeypatch.setattr(energy, "PERIOD_S", 0.005)
    now = {"watts": 2.0}

    def measure(*, stretches: Callable[[Sequence[Stretch]], None] | None) -> Any:
        assert stretches is not None
        now["watts"] = 10.0
        time.sleep(0.02)
        start = time.perf_counter()
        time.sleep(0.2)
        stretches([Stretch(start, time.perf_counter(), 20)])
        now["watts"] = 2.0
        return latency("e")

    def sensor(read: Callable[[], Mapping[str, float] | None]) -> Callable[[], PowerSensor | None]:
        return lambda: PowerSensor("rails", ("VDD_IN",), read)

    timed, found = measure_with_energy(measure, sensor(lambda: {"VDD_IN": now["watts"]}))
    assert found is not None
    assert found.power_w == pytest.approx(10, rel=0.1)
    assert found.idle_power_w == pytest.approx(2, rel=0.2)
    row = LatencyRow(latency=timed, energy=found)
    written = LatencyFile(device=Device(cpu="x"), reference=None, measurements=(row,))
    assert require_energy(record_from_mapping(LatencyFile, to_plain(written), "x", "")) == found

    timed, none = measure_with_energy(measure, sensor(lambda: None))
    assert none is None
    with pytest.raises(MeasurementError, match="e: its energy was not measured: rails could not be read"):
        require_energy(LatencyFile(device=Device(), reference=None, measurements=(LatencyRow(latency=timed),)))

    def unknown() -> PowerSensor:
        raise MeasurementError("it is not known which", "")

    timed, none = measure_with_energy(lambda **_: latency("e"), unknown)
    assert (none, timed.warnings[-1]) == (None, "energy: not measured: it is not known which")
    bare, none = measure_with_energy(lambda **_: latency("e"), lambda: None)
    assert (bare, none) == (latency("e"), None)
