"""Streams on a clock of their own: queueing theory's waits, deadlines that are counted by hand, stages that add up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.folder import image_folder
from edgecnn.errors import DataError, MeasurementError
from edgecnn.measure import end_to_end
from edgecnn.measure.end_to_end import STAGES, Frames, collect_frames, image_query, periodic, summarize
from edgecnn.results.device import Device
from edgecnn.results.end_to_end import EndToEnd
from edgecnn.results.latency import Clocks
from edgecnn.session import Array, Session, SessionInfo, TensorSpec, Timing

DEVICE = Device(cpu="made up")


class Simulated:
    """A clock that moves only when something waits for it or is computed."""

    def __init__(self, service_s: Callable[[int], float]) -> None:
        self.time, self.service_s = 100.0, service_s

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment: float) -> None:
        self.time = max(self.time, moment)

    def query(self, number: int) -> tuple[float, ...]:
        self.time += self.service_s(number)
        return (0.0, 0.0, 0.0, 0.0, 1000 * self.service_s(number), 0.0)


def frames(service_s: Callable[[int], float], duration_s: float, arrivals: Iterator[float] | None) -> Frames:
    machine = Simulated(service_s)
    return collect_frames(machine.query, duration_s, Clocks, arrivals, clock=machine)


def poisson(rate: float, seed: int = 0) -> Iterator[float]:
    rng, moment = np.random.default_rng(seed), 0.0
    while True:
        yield (moment := moment + rng.exponential(1 / rate))


def mean_interval(values: np.ndarray, groups: int = 40) -> tuple[float, float]:
    """95 % of the mean of a correlated series, by batch means (Student's t of 39 degrees of freedom)."""
    means = np.array([part.mean() for part in np.array_split(values, groups)])
    half = 2.023 * means.std(ddof=1) / groups**0.5
    return values.mean() - half, values.mean() + half


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_wait_is_that_of_m_d_1(load: float) -> None:
    """Poisson arrivals, constant service, one server: the mean wait is load * S / (2 (1 - load)) (Pollaczek 1930,
    Khinchin 1932), and a share of 1 - load of the frames does not wait."""
    service = 0.01
    found = frames(lambda _: service, 400.0, poisson(load / service))
    wait = np.array(found.start) - np.array(found.arrival)
    assert len(wait) > 10_000
    low, high = mean_interval(wait)
    assert low <= load * service / (2 * (1 - load)) <= high
    low, high = mean_interval((wait < 1e-9).astype(float))
    assert low <= 1 - load <= high


def test_a_loop_that_is_closed_hides_the_wait() -> None:
    # by the clock the frames behind the slow one take 0.46, 0.42 ... s, until the backlog is gone
    slow = lambda n: 0.5 if n == 10 else 0.01  # noqa: E731
    for arrivals, late in ((None, 1), (periodic(20), 12)):
        found = frames(slow, 10.0, arrivals)
        latency = np.array(found.end) - np.array(found.arrival)
        assert (latency > 0.05).sum() == late


def stream(service_s: Callable[[int], float], fps: float, duration_s: float = 10.0) -> EndToEnd:
    return summarize("x", DEVICE, [frames(service_s, duration_s, periodic(fps))], 1, fps=fps)


def test_deadlines_missed_by_a_throttled_engine_are_counted() -> None:
    """At 20 frames/s a query of 120 ms makes the next one 75 ms late as well, and no more."""
    found = stream(lambda n: 0.12 if n % 10 == 9 else 0.005, 20)
    assert found.stream is not None
    assert (found.stream.n_offered, found.stream.n_waiting) == (200, 0)
    assert found.stream.deadline_ms == 50
    assert found.stream.deadline_missed == 39  # 20 slow ones; the last of them has no next
    assert found.stream.deadline_missed_pct == 19.5
    assert found.stream.utilization_pct == pytest.approx(100 * (20 * 0.12 + 180 * 0.005) / 10.07, rel=1e-6)
    assert found.warnings == ()


def test_an_engine_that_cannot_keep_up() -> None:
    """Frame n begins at 60 n ms and came at 50 n ms."""
    found = stream(lambda _: 0.06, 20)
    assert found.stream is not None
    assert found.stream.n_offered == 200
    assert found.n_queries == 167  # the last of them begins at 9.96 s
    assert found.stream.n_waiting == 33
    assert found.stream.deadline_missed == 200  # also the one that came at 9.95 s and was not begun by 10.02 s
    assert found.stream.utilization_pct == pytest.approx(100)
    assert found.latency_ms_max == pytest.approx(60 + 166 * 10)
    assert "20 frames/s are more than can be served: 33 were waiting at the end" in found.warnings


def test_what_waits_past_its_deadline_is_missed_and_what_may_still_make_it_is_not() -> None:
    run = Frames(duration_s=1.0, clocks=[(1.0, Clocks())])
    run.arrival.append(0.0), run.start.append(0.0), run.end.append(0.01)
    run.stages.extend([0.0] * len(STAGES))
    run.waiting.extend([0.8, 0.95])
    found = summarize("x", DEVICE, [run], 1, fps=10)
    assert found.stream is not None
    assert (found.stream.deadline_missed, found.stream.n_offered) == (1, 3)


def test_a_soak_tells_the_burst_from_the_hot_machine() -> None:
    """A machine that slows from 10 to 15 ms after 30 s; then one that still slows down at the end."""
    clock = itertools.count()

    def clocks() -> Clocks:
        return Clocks(temperature_c=40.0 + 0.01 * next(clock))

    machine = Simulated(lambda _: 0.01 if machine.time < 130 else 0.015)
    run = collect_frames(machine.query, 120.0, clocks, clock=machine)
    found = summarize("x", DEVICE, [run], 1, soak=True)
    assert found.soak is not None
    assert found.soak.burst.latency_ms_p50 == pytest.approx(10)
    assert (found.soak.burst.end_s, found.soak.soaked.start_s) == pytest.approx((10, 90), abs=0.05)
    assert found.soak.soaked.latency_ms_p50 == pytest.approx(15)
    assert found.soak.soak_ratio == pytest.approx(1.5)
    assert found.soak.soaked.throughput_images_per_s == pytest.approx(1 / 0.015, rel=0.01)
    assert found.soak.burst.clocks is not None
    assert found.soak.soaked.clocks is not None
    assert found.soak.burst.clocks.temperature_c < found.soak.soaked.clocks.temperature_c
    assert not any("not settled" in w for w in found.warnings)
    run = frames(lambda n: 0.01 + n * 1e-6, 120.0, None)
    assert any("not settled: the last quarter" in w for w in summarize("x", DEVICE, [run], 1, soak=True).warnings)
    with pytest.raises(MeasurementError, match="no query between"):
        summarize("x", DEVICE, [frames(lambda _: 0.1, 100.0, (15 + m for m in periodic(1)))], 1, soak=True)


def test_several_processes_are_one_result() -> None:
    runs = [frames(served, 10.0, periodic(20)) for served in (lambda _: 0.01, lambda _: 0.06)]
    found = summarize("x", DEVICE, runs, 2, fps=20)
    assert found.processes == 2
    assert found.n_queries == 200 + 167
    assert found.throughput_images_per_s == pytest.approx(2 * 367 / found.duration_s)
    assert found.stream is not None
    assert found.stream.n_offered == 400
    assert found.stream.deadline_missed == 200


SHAPE = (None, 3, 8, 8)
INFO = SessionInfo((TensorSpec("input", SHAPE, "float32"),), (TensorSpec("logits", (None, 2), "float32"),))


class OnHost(Session):
    """Keeps what it was given."""

    info = INFO

    def __init__(self) -> None:
        self.seen: list[Array] = []

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.seen.append(inputs["input"])
        return {"logits": np.zeros((len(inputs["input"]), 2), np.float32)}


class OnDevice(OnHost):
    """With events."""

    def timed(self, batch: Array) -> Timing:
        self.run(batch)
        return Timing(0.25, 1.0, 0.5, "events")


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    return image_folder(tmp_path, Preprocessing(10, 8, (0.5,) * 3, (0.25,) * 3), "test", (), ())


def test_a_query_gives_the_engine_what_validate_would(pictures: Dataset) -> None:
    session = OnHost()
    stages = image_query(pictures, session, 2)(1)
    assert np.array_equal(session.seen[0], np.stack([pictures.tensor(2), pictures.tensor(0)]))
    assert len(stages) == len(STAGES)
    assert min(stages[:3]) > 0
    assert stages[3] == stages[5] == 0
    assert image_query(pictures, OnDevice(), 2)(0)[3:] == (0.25, 1.0, 0.5)


def test_stages_add_up(pictures: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of the clock is a millisecond later: what each stage takes is known."""
    ticks = itertools.count()
    monkeypatch.setattr(end_to_end.time, "perf_counter", lambda: next(ticks) / 1000)
    stages = image_query(pictures, OnHost(), 1)(0)
    assert stages == pytest.approx((1, 1, 2, 0, 1, 0))
    monkeypatch.undo()
    run = collect_frames(image_query(pictures, OnHost(), 1), 0.05, Clocks)
    found = summarize("x", DEVICE, [run], 1)
    assert [s.name for s in found.stages] == ["decode", "resize", "normalize", "compute", "other"]
    assert sum(s.share_pct or 0 for s in found.stages) == pytest.approx(100)
    assert sum(s.ms_mean for s in found.stages) == pytest.approx(found.latency_ms_mean)
    assert any("preprocessing takes longer than the network" in w for w in found.warnings)
    run.clock = "events"
    assert [s.name for s in summarize("x", DEVICE, [run], 1).stages][3:] == ["h2d", "compute", "d2h", "other"]


def test_data_without_pictures_is_refused(pictures: Dataset) -> None:
    import dataclasses

    for odd in (dataclasses.replace(pictures, image=None), dataclasses.replace(pictures, preprocessing=None)):
        with pytest.raises(DataError, match="no pictures to decode"):
            image_query(odd, OnHost(), 1)
