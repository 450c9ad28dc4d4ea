"""Power beside the queries of a run, and from it the energy of one.

A thread reads the sensor ten times a second from a while before the first query to a while after the last. The energy
of the queries is what was taken in the stretches in which nothing but queries ran, less what the machine takes idle.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from edgecnn.errors import MeasurementError
from edgecnn.machine.power_sensor import PowerSensor
from edgecnn.measure.samples import Stretch
from edgecnn.measure.stability import Floats
from edgecnn.results.energy import Energy
from edgecnn.results.latency import Latency, LatencyFile
from edgecnn.statistics import mean_half_width

PERIOD_S = 0.1
IDLE_S = 1.0
SETTLE_S = 0.1  # from the last query to what counts as idle
BLOCK_S = 0.4  # at least, of those whose spread gives the interval
GAP_S = 0.5  # between two readings of power: what is longer is not filled in
ABSENT = "this machine has no sensor for it: neither a Jetson's INA3221 rails nor a GPU that NVIDIA's NVML reads"


class Measuring(Protocol):
    """A measurement of latency that tells `stretches` when its queries ran."""

    def __call__(self, *, stretches: Callable[[Sequence[Stretch]], None] | None) -> Latency: ...


@dataclasses.dataclass(frozen=True)
class Readings:
    """`values` of the rails, one row for each time in `at_s`: watts, or joules where the sensor counts them; `busy_s`
    is how long reading them took."""

    at_s: Floats
    values: Floats
    rails: tuple[str, ...]
    busy_s: float


def measure_with_energy(
    measure: Measuring, sensor_of: Callable[[], PowerSensor | None]
) -> tuple[Latency, Energy | None]:
    """What `measure` measures, and the energy of its queries; None without a sensor, and where its readings do not
    carry it: then a warning of the latency says why."""
    try:
        sensor = sensor_of()
    except MeasurementError as exc:
        return _without_energy(measure(stretches=None), exc), None
    if sensor is None:
        return measure(stretches=None), None
    ran: list[Stretch] = []
    with _Recorder(sensor) as recorder:
        before = recorder.wait_idle(sensor.averages_s)
        found = measure(stretches=ran.extend)
        after = recorder.wait_idle(SETTLE_S + sensor.averages_s)
    try:
        return found, energy_of(sensor, recorder.readings(), ran, (before, after), found.batch)
    except MeasurementError as exc:
        return _without_energy(found, exc), None


def _without_energy(found: Latency, why: MeasurementError) -> Latency:
    return dataclasses.replace(found, warnings=(*found.warnings, f"energy: not measured: {why.message}"))


def require_energy(found: LatencyFile) -> Energy:
    """The energy of the first engine in a result of bench; raises `MeasurementError` where it was not measured."""
    row = found.measurements[0]
    if row.energy is not None:
        return row.energy
    said = (w.partition(": not measured: ")[2] for w in row.latency.warnings if w.startswith("energy: "))
    raise MeasurementError(
        f"{row.latency.name}: its energy was not measured: {next(said, ABSENT)}",
        "measure on a Jetson, or on a GPU with nvidia-ml-py installed",
    )


def energy_of(
    sensor: PowerSensor,
    readings: Readings,
    stretches: Sequence[Stretch],
    idle: tuple[tuple[float, float], tuple[float, float]],
    batch: int,
) -> Energy:
    """Energy of the queries in `stretches`; `idle` are start and end of the times before and after them. Raises
    `MeasurementError` where the readings do not carry it."""
    steady = [s for s in stretches if s.start_s >= stretches[0].start_s + sensor.averages_s]
    if not steady:
        raise MeasurementError(
            f"the run is too short for a sensor that averages over {sensor.averages_s:g} s", "measure for longer"
        )
    counted = readings.values if sensor.counts_energy else _integrated(readings, (idle[0][0], idle[1][1]))
    total = counted[:, [readings.rails.index(name) for name in sensor.rails]].sum(axis=1)

    def joules(start_s: float, end_s: float, of: Floats = total) -> float:
        low, high = np.interp([start_s, end_s], readings.at_s, of)
        return float(high - low)

    halves = [edges for start, end in idle for edges in itertools.pairwise(np.linspace(start, end, 3))]
    idle_w = [joules(start, end) / (end - start) for start, end in halves]
    resting = float(np.mean(idle_w))
    blocks = _blocks(steady, max(BLOCK_S, sensor.averages_s))
    seconds = np.array([sum(s.end_s - s.start_s for s in block) for block in blocks])
    queries = np.array([sum(s.queries for s in block) for block in blocks])
    taken = np.array([sum(joules(s.start_s, s.end_s) for s in block) for block in blocks])
    if sensor.counts_energy and not taken.sum() > 0:
        raise MeasurementError("the counter of joules did not move during the run", "measure for longer")
    per_query = float(seconds.sum() / queries.sum())
    whole = float(taken.sum() / queries.sum())
    net = whole - resting * per_query
    spread = None
    if len(blocks) > 1:
        half = mean_half_width((taken - resting * seconds) / queries) + mean_half_width(idle_w) * per_query
        spread = (net - half, net + half)
    if (spread[1] if spread else net) <= 0:
        raise MeasurementError(
            f"the machine took less power while queries ran ({whole / per_query:.2f} W) than idle ({resting:.2f} W)",
            "stop other work",
        )
    images = 1000 / batch
    by_rail = {
        name: sum(joules(s.start_s, s.end_s, counted[:, k]) for s in steady) / float(seconds.sum())
        for k, name in enumerate(readings.rails)
    }
    return Energy(
        power_sensor=sensor.name,
        power_rails=sensor.rails,
        power_w=whole / per_query,
        power_w_by_rail=by_rail,
        idle_power_w=resting,
        idle_power_w_before=float(np.mean(idle_w[:2])),
        idle_power_w_after=float(np.mean(idle_w[2:])),
        joules_per_inference=net,
        joules_per_inference_ci=spread,
        joules_per_inference_with_idle=whole,
        joules_per_1000_images=net * images,
        joules_per_1000_images_ci=None if spread is None else (spread[0] * images, spread[1] * images),
        energy_blocks=len(blocks),
        power_samples=len(readings.at_s),
        power_sampling_pct=100 * readings.busy_s / max(readings.at_s[-1] - readings.at_s[0], PERIOD_S),
    )


def _integrated(readings: Readings, span: tuple[float, float]) -> Floats:
    """Joules from watts, by trapezoids; raises `MeasurementError` for a gap in the readings."""
    at_s = np.concatenate([[span[0]], readings.at_s, [span[1]]])
    if (gap := float(np.diff(at_s).max())) > GAP_S:
        raise MeasurementError(f"the sensor could not be read for {gap:.1f} s", "stop other work")
    steps = np.diff(readings.at_s)[:, None] * (readings.values[1:] + readings.values[:-1]) / 2
    return np.vstack([np.zeros(readings.values.shape[1]), np.cumsum(steps, axis=0)])


def _blocks(stretches: Sequence[Stretch], shortest_s: float) -> list[list[Stretch]]:
    """Successive stretches, together so long each; what is left over belongs to the last."""
    blocks: list[list[Stretch]] = [[]]
    for stretch in stretches:
        if blocks[-1] and _span_s(blocks[-1]) >= shortest_s:
            blocks.append([])
        blocks[-1].append(stretch)
    if len(blocks) > 1 and _span_s(blocks[-1]) < shortest_s:
        left_over = blocks.pop()
        blocks[-1] += left_over
    return blocks


def _span_s(block: Sequence[Stretch]) -> float:
    return block[-1].end_s - block[0].start_s


class _Recorder:
    """Reads the sensor beside what runs in the block."""

    def __init__(self, sensor: PowerSensor) -> None:
        self._sensor, self._enough = sensor, threading.Event()
        self._at_s: list[float] = []
        self._values: list[list[float]] = []
        self._rails: tuple[str, ...] = ()
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._record, name="power", daemon=True)

    def __enter__(self) -> _Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def wait_idle(self, settle_s: float) -> tuple[float, float]:
        """Let `IDLE_S` pass after `settle_s`; its start and end."""
        time.sleep(settle_s)
        start = time.perf_counter()
        time.sleep(IDLE_S)
        return start, time.perf_counter()

    def readings(self) -> Readings:
        """What was read; raises `MeasurementError` for less than two readings."""
        if len(self._at_s) < 2:
            raise MeasurementError(f"{self._sensor.name} could not be read", "check that this user may read it")
        return Readings(np.array(self._at_s), np.array(self._values), self._rails, self._busy_s)

    def _record(self) -> None:
        while True:
            start = time.perf_counter()
            found = self._sensor.read()
            end = time.perf_counter()
            self._busy_s += end - start
            if found is not None:
                self._rails = self._rails or tuple(found)
                self._at_s.append((start + end) / 2)
                self._values.append([found[name] for name in self._rails])
            if self._enough.wait(PERIOD_S):
                return
