"""Queries that overlap: what is kept of them, and how fast they follow each other.

Throughput is queries by the time from the start of the first to the end of the last, on the device's clock (trtexec's
Total Host Walltime). The clocks of the machine are read twice a second with nothing in flight; the time between the
last query before a reading and the first after it counts for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgecnn.errors import MeasurementError
from edgecnn.machine.load import other_load_cores, read_cpu_time
from edgecnn.measure.samples import CLOCK_PERIOD_S, Samples, Stretch
from edgecnn.measure.stability import time_yardstick
from edgecnn.results.latency import Clocks, Mode
from edgecnn.session import Pipeline, PipelinedSession, Query, Session


def mode_of(wanted: Mode | None, *sessions: Session) -> Mode:
    """The mode that is wanted, or the one that all of these sessions have: pipelined where they can."""
    alone = [session for session in sessions if not isinstance(session, PipelinedSession)]
    if wanted == "pipelined" and alone:
        raise MeasurementError(
            "mode pipelined: only engines of TensorRT run queries that overlap", "measure with --mode single-shot"
        )
    return wanted or ("single-shot" if alone else "pipelined")


def collect_pipelined(
    pipeline: Pipeline, warmup_ms: float, duration_s: float, min_queries: int, clocks: Callable[[], Clocks]
) -> Samples:
    """What is kept after `warmup_ms`: at least `min_queries`, for at least `duration_s` of the queries' own time."""
    samples = Samples(clocks=[clocks()], yardstick_ms=[time_yardstick()])
    if warmup_ms > 0:
        run_queries(pipeline, lambda _, seconds: seconds >= warmup_ms / 1000)
    before = read_cpu_time()
    while samples.wall_s < duration_s or len(samples.timings) < min_queries:
        due = _due(duration_s - samples.wall_s, min_queries - len(samples.timings))
        start = time.perf_counter()
        found = run_queries(pipeline, due)
        samples.stretches.append(Stretch(start, time.perf_counter(), len(found)))
        samples.timings += [query.timing for query in found]
        samples.enqueue_ms += [query.enqueue_ms for query in found]
        samples.wall_s += wall_ms(found) / 1000
        samples.load_cores = other_load_cores(before, read_cpu_time())
        samples.clocks.append(clocks())
        samples.yardstick_ms.append(time_yardstick())
    return samples


def _due(missing_s: float, missing: int) -> Callable[[int, float], bool]:
    """Whether the clocks are to be read, or all is there that was missing, after so many queries in so many seconds."""
    return lambda n, seconds: seconds >= CLOCK_PERIOD_S or (seconds >= missing_s and n >= missing)


def run_queries(pipeline: Pipeline, enough: Callable[[int, float], bool]) -> list[Query]:
    """Queries in a row, with nothing in flight before and after, until it is `enough` of so many that ended in so many
    seconds."""
    pipeline.begin()
    start, found = time.perf_counter(), list[Query]()
    while not found or not enough(len(found), time.perf_counter() - start):
        found += pipeline.turn()
    return sorted(found + pipeline.drain(), key=lambda query: query.start_h2d_ms)


def wall_ms(queries: list[Query]) -> float:
    """From the start of the first to the end of the last."""
    return max(q.end_d2h_ms for q in queries) - min(q.start_h2d_ms for q in queries)
