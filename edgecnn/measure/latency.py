"""Latency and throughput by trtexec's definitions, and comparisons whose noise is known.

Latency of a query is H2D + compute + D2H by device events where the runtime has them, else the time of one call by the
host's clock. Warm-up and duration count from the first query; queries that start during the warm-up are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgecnn.errors import MeasurementError
from edgecnn.machine.clocks import Clocks, clock_warnings, open_nvml, read_clocks
from edgecnn.session import Array, Session, TimedSession, Timing
from edgecnn.statistics import percentile, percentile_interval, samples_for_percentile

Mode = Literal["latency", "throughput"]
Floats = npt.NDArray[np.float64]

UNSTABLE_COV_PCT = 2.5  # trtexec's bound for "GPU compute time is unstable"
DRIFT_PCT = 5.0  # medians of the first and the last quarter of a run
SLOWED = 2.0  # a median of so many times the fastest query: the session shares its processors with other work
CLOCK_PERIOD_S = 0.5
BLOCK_S = 0.05
MIN_ROUNDS = 10
RESAMPLES = 1000
WIDENING = 1.2  # in simulation the plain bootstrap of medians covers as little as 83 % with 30 rounds; so widened, 95 %


@dataclass(frozen=True)
class Latency:
    """One run: milliseconds per query of `batch` images, images per second, and under which conditions.

    A percentile that the number of queries does not carry is None. `graph`, `transfers` and `sync` say what a query
    was: a replayed CUDA graph or not, with or without copies, and how the host waited.
    """

    name: str
    mode: Mode
    clock: str
    batch: int
    n_queries: int
    warmup_ms: float
    duration_s: float
    latency_ms_mean: float
    latency_ms_min: float
    latency_ms_max: float
    latency_ms_p50: float
    latency_ms_p50_ci: tuple[float, float | None]
    latency_ms_p90: float | None
    latency_ms_p95: float | None
    latency_ms_p99: float | None
    latency_ms_p99_ci: tuple[float, float | None] | None
    latency_ms_cov_pct: float
    h2d_ms_p50: float | None
    compute_ms_p50: float | None
    d2h_ms_p50: float | None
    throughput_images_per_s: float
    drift_pct: float | None
    graph: bool
    transfers: bool
    sync: str
    clocks: dict[str, Any]
    warnings: tuple[str, ...]
    simulated: str

    def to_json(self) -> dict[str, Any]:
        """A flat object with units in its names."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class LatencyRatio:
    """Median of `name` over median of `reference`, from interleaved blocks, with its two-sided 95 % interval."""

    name: str
    reference: str
    ratio: float
    ratio_ci: tuple[float, float]
    rounds: int
    latency_ms_p50: float
    reference_latency_ms_p50: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields that a measurement of the engine takes over."""
        return {
            "latency_reference": self.reference,
            "latency_ratio": self.ratio,
            "latency_ratio_ci": list(self.ratio_ci),
            "latency_ratio_rounds": self.rounds,
            "latency_ratio_warnings": list(self.warnings),
        }


@dataclass
class _Samples:
    """Queries as they come in; `wall_s` from the start of the first kept one to the end of the last."""

    timings: list[Timing] = field(default_factory=list)
    clocks: list[Clocks] = field(default_factory=list)
    wall_s: float = 0.0

    def ms(self) -> Floats:
        return np.array([t.latency_ms for t in self.timings])


def measure_latency(
    name: str,
    session: Session,
    batch_input: Array,
    *,
    warmup_ms: float,
    duration_s: float,
    min_queries: int = 10,
    mode: Mode = "latency",
    clocks: Callable[[], Clocks] | None = None,
) -> Latency:
    """Run `session` on one batch for at least `duration_s` and `min_queries`, after `warmup_ms`.

    In throughput mode queries follow each other without a wait for events, and latency is the host's time per call.
    """
    clocks = clocks or _clock_reader()
    one = _query(session, mode)
    samples = _collect(partial(one, batch_input), warmup_ms, duration_s, min_queries, clocks)
    ms = samples.ms()
    ascending = np.sort(ms)
    n = len(ms)

    def carried(percent: float) -> float | None:
        return percentile(ascending, percent) if n >= samples_for_percentile(percent) else None

    parts = _parts(samples.timings)
    mean, drift = float(ms.mean()), _drift_pct(ms)
    cov = 100 * float(ms.std()) / mean if mean else 0.0
    return Latency(
        name=name,
        mode=mode,
        clock=samples.timings[0].clock,
        batch=len(batch_input),
        n_queries=n,
        warmup_ms=warmup_ms,
        duration_s=samples.wall_s,
        latency_ms_mean=mean,
        latency_ms_min=float(ascending[0]),
        latency_ms_max=float(ascending[-1]),
        latency_ms_p50=percentile(ascending, 50),
        latency_ms_p50_ci=percentile_interval(ascending, 50),
        latency_ms_p90=carried(90),
        latency_ms_p95=carried(95),
        latency_ms_p99=carried(99),
        latency_ms_p99_ci=percentile_interval(ascending, 99) if carried(99) is not None else None,
        latency_ms_cov_pct=cov,
        **parts,
        throughput_images_per_s=n * len(batch_input) / samples.wall_s,
        drift_pct=drift,
        graph=bool(getattr(session, "graph", False)),
        transfers=bool(parts["h2d_ms_p50"]) or (mode == "throughput" and isinstance(session, TimedSession)),
        sync=str(getattr(session, "sync", "synchronous call")),
        clocks=samples.clocks[-1].to_json(),
        warnings=(*_warnings(cov, drift, parts, samples.clocks), *_said_of(session)),
        simulated=str(getattr(session, "simulated", "")),
    )


def compare_latency(
    sessions: Mapping[str, Session],
    batch_input: Array,
    *,
    warmup_ms: float,
    duration_s: float,
    clocks: Callable[[], Clocks] | None = None,
    seed: int = 0,
) -> list[LatencyRatio]:
    """Every session against the first one: blocks of about 0.05 s in turn, forwards and backwards (A B B A), for
    `duration_s` each. The interval resamples whole rounds, so that slow phases of the machine count once.

    Raises `MeasurementError` for fewer than two sessions.
    """
    if len(sessions) < 2:
        raise MeasurementError("a comparison needs two engines", "name a second one")
    clocks = clocks or _clock_reader()
    queries = {name: _query(session, "latency") for name, session in sessions.items()}
    size, longest = {}, BLOCK_S
    for name, query in queries.items():
        warm = _collect(partial(query, batch_input), 0, warmup_ms / 1000, 3, clocks).ms()
        query_s = max(float(np.median(warm)) / 1000, 1e-6)
        size[name] = max(1, int(BLOCK_S / query_s))
        longest = max(longest, size[name] * query_s)
    rounds = max(MIN_ROUNDS, round(duration_s / longest))
    blocks: dict[str, list[Floats]] = {name: [] for name in sessions}
    readings = [clocks()]
    for k in range(rounds):
        for name in list(sessions) if k % 2 == 0 else list(sessions)[::-1]:
            blocks[name].append(_block(queries[name], batch_input, size[name]))
        if k % 10 == 9:
            readings.append(clocks())
    first = next(iter(sessions))
    warnings = tuple(clock_warnings(readings))
    return [_ratio(name, first, blocks, warnings, seed) for name in list(sessions)[1:]]


def _block(query: Callable[[Array], Timing], batch_input: Array, size: int) -> Floats:
    """`size` queries in ms, or fewer when the machine has become so slow that they would take three blocks' time."""
    ms: list[float] = []
    end = time.perf_counter() + 3 * BLOCK_S
    while len(ms) < size and (not ms or time.perf_counter() < end):
        ms.append(query(batch_input).latency_ms)
    return np.array(ms)


def _ratio(
    name: str, reference: str, blocks: Mapping[str, list[Floats]], warnings: tuple[str, ...], seed: int
) -> LatencyRatio:
    """Block bootstrap (Kuensch, Annals of Statistics 17, 1989) of the ratio of medians, by resampled rounds."""
    rounds = len(blocks[name])
    draws = np.random.default_rng(seed).multinomial(rounds, np.full(rounds, 1 / rounds), RESAMPLES)
    medians = {side: _weighted_medians(blocks[side], draws) for side in (name, reference)}
    ours, theirs = (float(np.median(np.concatenate(blocks[side]))) for side in (name, reference))
    centre = np.log(ours / theirs)
    spread = np.percentile(np.log(medians[name] / medians[reference]), [2.5, 97.5]) - centre
    low, high = np.exp(centre + WIDENING * spread)
    slowed = tuple(_slowed(side, np.concatenate(blocks[side])) for side in (name, reference))
    said = (*warnings, *filter(None, slowed))
    return LatencyRatio(name, reference, ours / theirs, (float(low), float(high)), rounds, ours, theirs, said)


def _slowed(name: str, ms: Floats) -> str:
    """What is to be said of a session whose usual query is far from its fastest; a ratio with it may not hold."""
    share = float(np.median(ms) / ms.min())
    if share <= SLOWED:
        return ""
    advice = "stop other work, or use --threads 1"
    return f"{name}: the median query took {share:.3g} times as long as the fastest: {advice}"


def _weighted_medians(blocks: list[Floats], draws: npt.NDArray[np.int64]) -> Floats:
    """The median of the samples under each row of `draws` (how often each block counts)."""
    samples = np.concatenate(blocks)
    owner = np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])
    order = np.argsort(samples, kind="stable")
    samples, owner = samples[order], owner[order]
    medians = np.empty(len(draws))
    for k, draw in enumerate(draws):
        reached = np.cumsum(draw[owner])
        medians[k] = samples[np.searchsorted(reached, reached[-1] / 2)]
    return medians


def _said_of(session: Session) -> list[str]:
    """Why an engine that could be replayed as a CUDA graph is not, and what of it is only simulated."""
    reason, simulated = getattr(session, "graph_fallback", ""), getattr(session, "simulated", "")
    said = [f"not replayed as a CUDA graph: {reason}"] if reason else []
    return said + ([f"this is a simulation ({simulated}): its speed says nothing"] if simulated else [])


def _query(session: Session, mode: Mode) -> Callable[[Array], Timing]:
    if mode == "latency" and isinstance(session, TimedSession):
        return session.timed

    def by_host_clock(batch: Array) -> Timing:
        start = time.perf_counter_ns()
        session.run(batch)
        return Timing(0.0, (time.perf_counter_ns() - start) / 1e6, 0.0, "host")

    return by_host_clock


def _collect(
    query: Callable[[], Timing], warmup_ms: float, duration_s: float, min_queries: int, clocks: Callable[[], Clocks]
) -> _Samples:
    samples, begin = _Samples(clocks=[clocks()]), time.perf_counter()
    while time.perf_counter() - begin < warmup_ms / 1000:
        query()
    start = last_reading = time.perf_counter()
    paused = 0.0  # reading the clocks is not part of the run
    while True:
        samples.timings.append(query())
        now = time.perf_counter()
        samples.wall_s = now - start - paused
        if samples.wall_s >= duration_s and len(samples.timings) >= min_queries:
            samples.clocks.append(clocks())
            return samples
        if now - last_reading >= CLOCK_PERIOD_S:
            samples.clocks.append(clocks())
            last_reading = time.perf_counter()
            paused += last_reading - now


def _parts(timings: list[Timing]) -> dict[str, float | None]:
    keys = ("h2d_ms", "compute_ms", "d2h_ms")
    if timings[0].clock == "host":
        return {f"{k}_p50": None for k in keys}
    return {f"{k}_p50": float(np.median([getattr(t, k) for t in timings])) for k in keys}


def _drift_pct(ms: Floats) -> float | None:
    """How much slower the last quarter of the run is than the first; None for runs too short to tell."""
    if len(ms) < 40:
        return None
    quarter = len(ms) // 4
    return 100 * (float(np.median(ms[-quarter:])) / float(np.median(ms[:quarter])) - 1)


def _warnings(cov: float, drift: float | None, parts: Mapping[str, float | None], clocks: list[Clocks]) -> list[str]:
    found = clock_warnings(clocks)
    if cov > UNSTABLE_COV_PCT:
        found.append(f"unstable: the coefficient of variation is {cov:.1f} %; lock the clocks, stop other work")
    if drift is not None and abs(drift) > DRIFT_PCT:
        found.append(f"drift: the last quarter of the run is {drift:+.1f} % against the first")
    compute = parts["compute_ms_p50"]
    for key in ("h2d", "d2h"):
        copy = parts[f"{key}_ms_p50"]
        if copy is not None and compute is not None and copy >= compute > 0:
            found.append(f"{key} takes as long as the computation ({copy:.3f} of {compute:.3f} ms)")
    return found


def _clock_reader() -> Callable[[], Clocks]:
    nvml = open_nvml()
    return lambda: read_clocks(nvml=nvml)
