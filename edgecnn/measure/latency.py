"""Latency and throughput by trtexec's definitions.

Latency of a query is H2D + compute + D2H by device events where the runtime has them, else the time of one call by the
host's clock. Warm-up and duration count from the first query; queries that start during the warm-up are dropped.
Pipelined queries overlap (two in flight on each stream); single-shot ones follow each other, each with its copy on the
host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from edgecnn.errors import MeasurementError
from edgecnn.machine.clocks import clock_warnings, find_throttling, read_clocks
from edgecnn.machine.gpu import open_nvml
from edgecnn.machine.load import other_load_cores, read_cpu_time
from edgecnn.measure.pipelined import collect_pipelined, mode_of
from edgecnn.measure.samples import CLOCK_PERIOD_S, Samples, Stretch
from edgecnn.measure.stability import Floats, find_instability, median_interval, time_yardstick
from edgecnn.results.latency import Clocks, Latency, Mode
from edgecnn.session import Array, PipelinedSession, PipelineOptions, Session, SessionInfo, TimedSession, Timing
from edgecnn.statistics import percentile, percentile_interval, samples_for_percentile

UNSTABLE_COV_PCT = 2.5  # trtexec's bound for "GPU compute time is unstable"
DRIFT_PCT = 5.0  # medians of the first and the last quarter of a run
BINS = 40  # of the distribution of a run's latencies
PLAIN = PipelineOptions()
ENQUEUE_BOUND = 0.8  # trtexec's: enqueuing for longer than this share of the computation bounds the throughput


def measure_latency(
    name: str,
    session: Session,
    batch_input: Array,
    *,
    warmup_ms: float,
    duration_s: float,
    min_queries: int = 10,
    mode: Mode | None = None,
    options: PipelineOptions = PLAIN,
    clocks: Callable[[], Clocks] | None = None,
    stretches: Callable[[Sequence[Stretch]], None] | None = None,
) -> Latency:
    """Run `session` on one batch for at least `duration_s` and `min_queries`, after `warmup_ms`, in a `mode` (None:
    pipelined where the session can).

    Without `options.timed` nothing but the work is queued, and latency is the host's time per query. `stretches` is
    told when those ran that are kept, as soon as they have. Raises
    `MeasurementError` for a mode, or for streams and transfers, that the session does not have.
    """
    mode, clocks = mode_of(mode, session), clocks or clock_reader(session.info.pci_bus_id)
    samples, info = _run(session, batch_input, mode, options, warmup_ms, duration_s, min_queries, clocks)
    if stretches is not None:
        stretches(samples.stretches)
    ms = samples.ms()
    ascending = np.sort(ms)
    n = len(ms)

    def carried(percent: float) -> float | None:
        return percentile(ascending, percent) if n >= samples_for_percentile(percent) else None

    parts, (edges, counts) = _parts(samples.timings), _bins(ascending)
    mean, drift = float(ms.mean()), _drift_pct(ms)
    cov = 100 * float(ms.std()) / mean if mean else 0.0
    unstable = (
        *find_instability(ms, samples.load_cores),
        *find_throttling(samples.clocks[1:]),
    )  # an idle GPU is slow: the first reading is not of the run
    enqueue = float(np.median(samples.enqueue_ms)) if samples.enqueue_ms else None
    said = _warnings(cov, drift, parts, samples.clocks) + _bounds(enqueue, parts["compute_ms_p50"], options)
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
        latency_ms_p50_ci=median_interval(ms),
        latency_ms_p90=carried(90),
        latency_ms_p95=carried(95),
        latency_ms_p99=carried(99),
        latency_ms_p99_ci=percentile_interval(ascending, 99) if carried(99) is not None else None,
        latency_ms_cov_pct=cov,
        **parts,
        enqueue_ms_p50=enqueue,
        streams=options.streams,
        throughput_images_per_s=n * len(batch_input) / samples.wall_s,
        drift_pct=drift,
        graph=info.graph,
        transfers=_transfers(session, mode, options, parts),
        sync=info.sync,
        clocks=samples.clocks[-1],
        yardstick_ms=float(np.median(samples.yardstick_ms)),
        other_load_cores=samples.load_cores,
        unstable=unstable,
        profile=info.profile,
        latency_ms_bins=edges,
        latency_ms_bin_n=counts,
        jit_ms=info.jit_ms,
        warnings=tuple(dict.fromkeys((*unstable, *said, *_said_of(info)))),
    )


def _bins(ascending: Floats) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges of bins of one width, and how many queries lie in each. Slow queries are left out, for they would press all
    others into the first bin: those beyond the 99th percentile, or beyond twice the 90th. None where all are alike."""
    low, high = float(ascending[0]), min(percentile(ascending, 99), 2 * percentile(ascending, 90))
    if len(ascending) < BINS or high - low < 1e-9 * high:
        return (), ()
    counts, edges = np.histogram(ascending, BINS, (low, high))
    return tuple(edges.tolist()), tuple(counts.tolist())


def _run(
    session: Session, batch_input: Array, mode: Mode, options: PipelineOptions, *limits: Any
) -> tuple[Samples, SessionInfo]:
    """The queries, and the session's info after them: only then it is known whether a CUDA graph is replayed."""
    if mode == "pipelined":
        assert isinstance(session, PipelinedSession)
        with session.pipeline(batch_input, options) as pipeline:
            return collect_pipelined(pipeline, *limits), pipeline.info
    require_plain(options)
    return collect_samples(partial(query_of(session, timed=options.timed), batch_input), *limits), session.info


def _said_of(info: SessionInfo) -> list[str]:
    """Why an engine that could be replayed as a CUDA graph is not, and what of it runs elsewhere or is simulated."""
    said = [f"not replayed as a CUDA graph: {info.graph_fallback}"] if info.graph_fallback else []
    said += [f"{info.cpu_nodes} of {info.graph_nodes} nodes run on the CPU"] if info.cpu_nodes else []
    return said + ([f"this is a simulation ({info.simulated}): its speed says nothing"] if info.simulated else [])


def _transfers(session: Session, mode: Mode, options: PipelineOptions, parts: Mapping[str, float | None]) -> bool:
    if mode == "pipelined":
        return options.transfers
    return bool(parts["h2d_ms_p50"]) or (not options.timed and isinstance(session, TimedSession))


def _bounds(enqueue_ms: float | None, compute_ms: float | None, options: PipelineOptions) -> list[str]:
    """trtexec's warnings of pipelined queries."""
    said = []
    if enqueue_ms is not None and compute_ms is not None and enqueue_ms > ENQUEUE_BOUND * compute_ms:
        said.append(
            f"throughput may be bound by the host's enqueuing ({enqueue_ms:.3f} of {compute_ms:.3f} ms of compute)"
        )
    if options.streams > 1:
        said.append(f"{options.streams} streams share the GPU: latency holds for that load alone")
    return said


def require_plain(options: PipelineOptions) -> None:
    """Raise `MeasurementError` for what single-shot queries do not have."""
    if options.streams > 1 or not options.transfers:
        what = f"{options.streams} streams" if options.streams > 1 else "no transfers"
        raise MeasurementError(
            f"{what}: single-shot queries come one at a time, copies included",
            "leave it out; engines of TensorRT have it with --mode pipelined, their default",
        )


def query_of(session: Session, *, timed: bool = True) -> Callable[[Array], Timing]:
    """One query and its times in ms: by the session's own events where it has them and they are wanted, else by the
    host's clock."""
    if timed and isinstance(session, TimedSession):
        return session.timed

    def by_host_clock(batch: Array) -> Timing:
        start = time.perf_counter_ns()
        session.run(batch)
        return Timing(0.0, (time.perf_counter_ns() - start) / 1e6, 0.0, "host")

    return by_host_clock


def collect_samples(
    query: Callable[[], Timing], warmup_ms: float, duration_s: float, min_queries: int, clocks: Callable[[], Clocks]
) -> Samples:
    """What is kept after `warmup_ms`: at least `min_queries`, for at least `duration_s`; the clocks twice a second."""
    samples, begin = Samples(clocks=[clocks()], yardstick_ms=[time_yardstick()]), time.perf_counter()
    while time.perf_counter() - begin < warmup_ms / 1000:
        query()
    start = last_reading = time.perf_counter()
    paused, told = 0.0, 0  # reading the clocks is not part of the run
    before = read_cpu_time()
    while True:
        samples.timings.append(query())
        now = time.perf_counter()
        samples.wall_s = now - start - paused
        enough = samples.wall_s >= duration_s and len(samples.timings) >= min_queries
        if enough or now - last_reading >= CLOCK_PERIOD_S:
            samples.stretches.append(Stretch(last_reading, now, len(samples.timings) - told))
            told = len(samples.timings)
        if enough:
            samples.load_cores = other_load_cores(before, read_cpu_time())
            samples.clocks.append(clocks())
            samples.yardstick_ms.append(time_yardstick())
            return samples
        if now - last_reading >= CLOCK_PERIOD_S:
            samples.clocks.append(clocks())
            samples.yardstick_ms.append(time_yardstick())
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


def clock_reader(pci_bus_id: str) -> Callable[[], Clocks]:
    """Readings of this machine's clocks, and those of the GPU at a PCI bus id ("" for none), opened once."""
    nvml = open_nvml(pci_bus_id)
    return lambda: read_clocks(nvml=nvml)
