"""From a picture's file to its logits: the time of each stage, one query after another or as frames arrive.

In an open loop frames come by the clock whether the engine is free or not, wait in order, and latency counts from
arrival: a loop that begins a query only when the one before is done hides every wait behind a slow one.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgecnn.data.dataset import Dataset
from edgecnn.errors import DataError, MeasurementError
from edgecnn.machine.clocks import clock_warnings
from edgecnn.measure.samples import CLOCK_PERIOD_S
from edgecnn.results.device import Device
from edgecnn.results.end_to_end import EndToEnd, Soak, SoakWindow, StageTime, Stream
from edgecnn.results.latency import Clocks
from edgecnn.session import Session, TimedSession
from edgecnn.statistics import percentile, percentile_interval, samples_for_percentile

Floats = npt.NDArray[np.float64]
STAGES = ("decode", "resize", "normalize", "h2d", "compute", "d2h")
Query = Callable[[int], Sequence[float]]  # of the n-th frames: milliseconds of each of STAGES
SPIN_S = 0.001  # before an arrival: a sleep ends up to this much late
READ_S = 0.005  # reading the clocks needs a pause of this much before the next frame
BURST_S, BURST_SHARE, SOAKED_SHARE = 10.0, 0.1, 0.25
SETTLED_PCT = 2.0  # between the last two quarters of a soak


class HostClock(Protocol):
    """Where the time comes from, in seconds."""

    def now(self) -> float: ...

    def sleep_until(self, moment: float) -> None: ...


class WallClock:
    """The machine's."""

    def now(self) -> float:
        """Seconds, monotonic."""
        return time.perf_counter()

    def sleep_until(self, moment: float) -> None:
        """Return at `moment`, and not some scheduler ticks later: the last of the wait is spent in a loop."""
        while (left := moment - time.perf_counter()) > 0:
            if left > SPIN_S:
                time.sleep(left - SPIN_S)


@dataclass
class Frames:
    """Queries of one process as they come in, in seconds from the common start; `stages` in milliseconds."""

    arrival: array[float] = field(default_factory=lambda: array("d"))
    start: array[float] = field(default_factory=lambda: array("d"))
    end: array[float] = field(default_factory=lambda: array("d"))
    stages: array[float] = field(default_factory=lambda: array("d"))
    clocks: list[tuple[float, Clocks]] = field(default_factory=list)
    waiting: array[float] = field(default_factory=lambda: array("d"))  # arrivals that were not begun
    duration_s: float = 0.0
    clock: str = "host"


def image_query(dataset: Dataset, session: Session, batch: int) -> Query:
    """Decode, resize and normalize `batch` pictures (or arrange them as the data set's serving form has them), and run
    them; the pictures are taken in turn.

    Copies are told by a runtime that has events; by the host's clock they are part of the computation. Raises
    `DataError` for a data set without pictures, and for a picture that cannot be read.
    """
    preprocessing, image = dataset.preprocessing, dataset.image
    if preprocessing is None or image is None or not len(dataset):
        raise DataError(
            f"{dataset.name}: no pictures to decode: an .npz is preprocessed already",
            "name an image folder, a manifest, or a data set by name",
        )

    def query(number: int) -> tuple[float, ...]:
        decode = resize = normalize = 0.0
        inputs = []
        for k in range(number * batch, (number + 1) * batch):
            t0 = time.perf_counter()
            picture = image(k % len(dataset))
            t1 = time.perf_counter()
            pixels = np.asarray(preprocessing.crop_image(picture))
            t2 = time.perf_counter()
            inputs.append(preprocessing.arrange(pixels, dataset.form))
            t3 = time.perf_counter()
            decode, resize, normalize = decode + t1 - t0, resize + t2 - t1, normalize + t3 - t2
        t4 = time.perf_counter()
        images = np.stack(inputs)
        t5 = time.perf_counter()
        before = (1000 * decode, 1000 * resize, 1000 * (normalize + t5 - t4))
        if isinstance(session, TimedSession):
            timing = session.timed(images)
            return (*before, timing.h2d_ms, timing.compute_ms, timing.d2h_ms)
        session.run_all({session.input.name: images})
        return (*before, 0.0, 1000 * (time.perf_counter() - t5), 0.0)

    return query


def periodic(fps: float) -> Iterator[float]:
    """The moments at which frames arrive, seconds from the start."""
    number = 0
    while True:
        yield number / fps
        number += 1


def collect_frames(
    query: Query,
    duration_s: float,
    clocks: Callable[[], Clocks],
    arrivals: Iterator[float] | None = None,
    *,
    clock: HostClock | None = None,
    min_queries: int = 10,
) -> Frames:
    """Queries for `duration_s` seconds: each when the one before is done, or as they arrive, in order.

    `arrivals` are seconds from the start, ascending and without end. Without them there are at least `min_queries`,
    and the time in which the clocks are read is left out.
    """
    clock, found = clock or WallClock(), Frames()
    begin = clock.now()
    last_reading = -CLOCK_PERIOD_S
    number, paused = 0, 0.0
    while True:
        now = clock.now() - begin - paused
        arrival = now if arrivals is None else next(arrivals)
        over = now >= duration_s and (arrivals is not None or number >= min_queries)
        if over or (arrivals is not None and arrival >= duration_s):
            break
        if now - last_reading >= CLOCK_PERIOD_S and (arrivals is None or arrival - now > READ_S):
            found.clocks.append((now, clocks()))
            last_reading = now
            if arrivals is None:
                paused += clock.now() - begin - paused - now
        if arrivals is None:
            start = arrival
        else:
            clock.sleep_until(begin + arrival)
            start = clock.now() - begin
        stages = query(number)
        number += 1
        found.arrival.append(arrival)
        found.start.append(start)
        found.end.append(clock.now() - begin - paused)
        found.stages.extend(stages)
    found.duration_s = clock.now() - begin - paused
    if arrivals is not None:  # the one that came too late to be begun, and those behind it
        while arrival < duration_s:
            found.waiting.append(arrival)
            arrival = next(arrivals)
        if not found.waiting and found.duration_s < duration_s:
            clock.sleep_until(begin + duration_s)
            found.duration_s = clock.now() - begin
    found.clocks.append((found.duration_s, clocks()))
    return found


def summarize(
    name: str,
    device: Device,
    runs: Sequence[Frames],
    batch: int,
    *,
    fps: float | None = None,
    soak: bool = False,
) -> EndToEnd:
    """The result of the processes' `runs`, which began at one moment."""
    arrival, start, end = (np.concatenate([np.array(getattr(r, k)) for r in runs]) for k in ("arrival", "start", "end"))
    stages = np.concatenate([np.array(r.stages) for r in runs]).reshape(-1, len(STAGES))
    latency = 1000 * (end - arrival)
    other = 1000 * (end - start) - stages.sum(axis=1)
    named = [*((n, stages[:, i]) for i, n in enumerate(STAGES)), ("other", other)]
    by_host = runs[0].clock == "host"
    named = [(n, ms) for n, ms in named if not (by_host and n in ("h2d", "d2h"))]
    whole = float(sum(ms.mean() for _, ms in named))
    if fps is not None:
        named.insert(0, ("wait", 1000 * (start - arrival)))
    ascending = np.sort(latency)
    duration = max(r.duration_s for r in runs)
    readings = [reading for r in runs for _, reading in r.clocks]
    stream = None if fps is None else _stream(runs, fps, latency, 1000 * float((end - start).sum()))
    soaked = _soak(runs, arrival, latency, duration, batch) if soak else None
    rows = tuple(_stage(n, ms, None if n == "wait" else whole) for n, ms in named)
    return EndToEnd(
        name=name,
        device=device,
        batch=batch,
        processes=len(runs),
        n_queries=len(latency),
        duration_s=duration,
        clock=runs[0].clock,
        latency_ms_mean=float(latency.mean()),
        latency_ms_p50=percentile(ascending, 50),
        latency_ms_p90=_carried(ascending, 90),
        latency_ms_p95=_carried(ascending, 95),
        latency_ms_p99=_carried(ascending, 99),
        latency_ms_max=float(ascending[-1]),
        throughput_images_per_s=len(latency) * batch / duration,
        stages=rows,
        stream=stream,
        soak=soaked,
        clocks=readings[-1],
        warnings=(*clock_warnings(readings), *_warnings(rows, stream, soaked, arrival, latency, duration)),
    )


def _carried(ascending: Floats, percent: float) -> float | None:
    return percentile(ascending, percent) if len(ascending) >= samples_for_percentile(percent) else None


def _stage(name: str, ms: Floats, whole: float | None) -> StageTime:
    ascending = np.sort(ms)
    return StageTime(
        name=name,
        ms_mean=float(ms.mean()),
        ms_p50=percentile(ascending, 50),
        ms_p90=_carried(ascending, 90),
        ms_p95=_carried(ascending, 95),
        ms_p99=_carried(ascending, 99),
        share_pct=100 * float(ms.mean()) / whole if whole else None,
    )


def _stream(runs: Sequence[Frames], fps: float, latency_ms: Floats, busy_ms: float) -> Stream:
    deadline = 1000 / fps
    late = int((latency_ms > deadline).sum())
    late += sum(1 for r in runs for moment in r.waiting if 1000 * (r.duration_s - moment) > deadline)
    waiting = sum(len(r.waiting) for r in runs)
    offered = len(latency_ms) + waiting
    return Stream(
        fps=fps,
        deadline_ms=deadline,
        n_offered=offered,
        n_waiting=waiting,
        deadline_missed=late,
        deadline_missed_pct=100 * late / offered,
        utilization_pct=busy_ms / 10 / sum(r.duration_s for r in runs),
    )


def _soak(runs: Sequence[Frames], arrival: Floats, latency_ms: Floats, duration: float, batch: int) -> Soak:
    """The first seconds, before the machine is warm, against the last quarter."""

    def window(start: float, end: float) -> SoakWindow:
        ms = np.sort(latency_ms[(arrival >= start) & (arrival < end)])
        if not len(ms):
            raise MeasurementError(
                f"no query between {start:.0f} and {end:.0f} s of the soak", "soak longer, or at more frames a second"
            )
        readings = [reading for moment, reading in runs[0].clocks if start <= moment <= end]
        return SoakWindow(
            start_s=start,
            end_s=end,
            n_queries=len(ms),
            latency_ms_p50=percentile(ms, 50),
            latency_ms_p50_ci=percentile_interval(ms, 50),
            latency_ms_p99=_carried(ms, 99),
            throughput_images_per_s=len(ms) * batch / (end - start),
            clocks=readings[-1] if readings else None,
        )

    burst = window(0.0, min(BURST_S, BURST_SHARE * duration))
    soaked = window((1 - SOAKED_SHARE) * duration, duration)
    return Soak(burst=burst, soaked=soaked, soak_ratio=soaked.latency_ms_p50 / burst.latency_ms_p50)


def _warnings(
    rows: Sequence[StageTime],
    stream: Stream | None,
    soak: Soak | None,
    arrival: Floats,
    latency_ms: Floats,
    duration: float,
) -> list[str]:
    mean = {row.name: row.ms_mean for row in rows}
    before, compute = sum(mean[n] for n in ("decode", "resize", "normalize")), mean["compute"]
    found = []
    if before > compute:
        found.append(f"preprocessing takes longer than the network ({before:.3g} of {before + compute:.3g} ms)")
    if stream is not None and stream.n_waiting > 1:
        found.append(f"{stream.fps:g} frames/s are more than can be served: {stream.n_waiting} were waiting at the end")
    if soak is not None:
        quarters = [latency_ms[(arrival >= a * duration) & (arrival < (a + 0.25) * duration)] for a in (0.5, 0.75)]
        moved = 100 * (float(np.median(quarters[1])) / float(np.median(quarters[0])) - 1) if quarters[0].size else 0.0
        if abs(moved) > SETTLED_PCT:
            found.append(
                f"not settled: the last quarter of the soak is {moved:+.1f} % against the one before; soak longer"
            )
    return found
