"""Engines in turn on the same input: ratios of medians whose noise is known."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgecnn.errors import MeasurementError
from edgecnn.machine.clocks import clock_warnings
from edgecnn.measure.latency import PLAIN, clock_reader, collect_samples, query_of
from edgecnn.measure.pipelined import mode_of, run_queries, wall_ms
from edgecnn.measure.stability import Floats
from edgecnn.results.engine import EngineInfo
from edgecnn.results.latency import Clocks, LatencyRatio, Mode
from edgecnn.session import Array, Pipeline, PipelinedSession, PipelineOptions, Session, Timing

SLOWED = 2.0  # a median of so many times the fastest query: the session shares its processors with other work
BLOCK_S = 0.05
MIN_ROUNDS = 10
RESAMPLES = 1000
WIDENING = 1.2  # in simulation the plain bootstrap of medians covers as little as 83 % with 30 rounds; so widened, 95 %


def compare_latency(
    sessions: Mapping[str, Session],
    batch_input: Array | Mapping[str, Array],
    *,
    warmup_ms: float,
    duration_s: float,
    clocks: Callable[[], Clocks] | None = None,
    seed: int = 0,
    fp16_of: Mapping[str, str] | None = None,
    mode: Mode | None = None,
    options: PipelineOptions = PLAIN,
) -> dict[str, LatencyRatio]:
    """Every session against the first one: blocks of about 0.05 s in turn, forwards and backwards (A B B A), for
    `duration_s` each, on one batch, or each on its own where their serving contracts differ. All are run in one `mode`
    (None: pipelined where every one can). The interval resamples whole rounds, so that slow phases of the machine count
    once. `fp16_of` names INT8 sessions, each with the FP16 one
    that it is held against too: a slower one is a warning.

    Returns the ratio of each but the first by its name. Raises `MeasurementError` for fewer than two sessions.
    """
    if len(sessions) < 2:
        raise MeasurementError("a comparison needs two engines", "name a second one")
    clocks = clocks or clock_reader(max(session.info.pci_bus_id for session in sessions.values()))
    own = batch_input if isinstance(batch_input, Mapping) else dict.fromkeys(sessions, batch_input)
    mode = mode_of(mode, *sessions.values())
    blocks: dict[str, list[Floats]] = {name: [] for name in sessions}
    with contextlib.ExitStack() as opening:
        runs = {name: _blocks_of(opening, session, own[name], mode, options) for name, session in sessions.items()}
        size, longest = {}, BLOCK_S
        for name, (warm, _) in runs.items():
            query_s = max(warm(warmup_ms / 1000, clocks), 1e-6)
            size[name] = max(1, int(BLOCK_S / query_s))
            longest = max(longest, size[name] * query_s)
        rounds = max(MIN_ROUNDS, round(duration_s / longest))
        readings = [clocks()]
        for k in range(rounds):
            for name in list(sessions) if k % 2 == 0 else list(sessions)[::-1]:
                blocks[name].append(runs[name][1](size[name]))
            if k % 10 == 9:
                readings.append(clocks())
    first = next(iter(sessions))
    warnings = tuple(clock_warnings(readings))
    found = {name: _ratio(name, first, blocks, warnings, seed, mode) for name in list(sessions)[1:]}
    for int8, fp16 in (fp16_of or {}).items():
        owner = int8 if int8 != first else fp16
        found[owner] = _against_fp16(found[owner], int8, fp16, blocks, seed)
    return found


def find_fp16_engines(engines: Mapping[str, EngineInfo | None]) -> dict[str, str]:
    """INT8 engine -> the first FP16 engine, among those whose time is their own and no simulation's."""
    real = {name: info for name, info in engines.items() if info is not None and not info.simulated}
    half = next((name for name, info in real.items() if info.precision_requested == "fp16"), None)
    return {name: half for name, info in real.items() if half is not None and info.precision_requested == "int8"}


Warm: TypeAlias = "Callable[[float, Callable[[], Clocks]], float]"  # for so many seconds; the usual time of a query, s
Block: TypeAlias = "Callable[[int], Floats]"  # the times of so many queries, ms


def _blocks_of(
    opening: contextlib.ExitStack, session: Session, batch_input: Array, mode: Mode, options: PipelineOptions
) -> tuple[Warm, Block]:
    if mode == "pipelined":
        assert isinstance(session, PipelinedSession)
        pipeline = opening.enter_context(session.pipeline(batch_input, replace(options, timed=True)))
        return partial(_warm_pipeline, pipeline), partial(_pipelined_block, pipeline)
    query = partial(query_of(session), batch_input)

    def warm(seconds: float, clocks: Callable[[], Clocks]) -> float:
        return float(np.median(collect_samples(query, 0, seconds, 3, clocks).ms())) / 1000

    return warm, partial(_block, query)


def _warm_pipeline(pipeline: Pipeline, seconds: float, clocks: Callable[[], Clocks]) -> float:
    found = run_queries(pipeline, lambda n, passed: passed >= seconds and n >= 3)
    return wall_ms(found) / 1000 / len(found)


def _pipelined_block(pipeline: Pipeline, size: int) -> Floats:
    """`size` queries, or fewer as of `_block`; those in flight at its end count too."""
    found = run_queries(pipeline, lambda n, passed: n >= size - 1 or passed >= 3 * BLOCK_S)
    return np.array([query.timing.latency_ms for query in found])


def _block(query: Callable[[], Timing], size: int) -> Floats:
    """`size` queries in ms, or fewer when the machine has become so slow that they would take three blocks' time."""
    ms: list[float] = []
    end = time.perf_counter() + 3 * BLOCK_S
    while len(ms) < size and (not ms or time.perf_counter() < end):
        ms.append(query().latency_ms)
    return np.array(ms)


def _ratio(
    name: str, reference: str, blocks: Mapping[str, list[Floats]], warnings: tuple[str, ...], seed: int, mode: Mode
) -> LatencyRatio:
    ours, theirs, interval = _medians(name, reference, blocks, seed)
    slowed = tuple(_slowed(side, np.concatenate(blocks[side])) for side in (name, reference))
    said = (*warnings, *filter(None, slowed))
    return LatencyRatio(
        latency_reference=reference,
        latency_ratio=ours / theirs,
        latency_ratio_ci=interval,
        latency_ratio_rounds=len(blocks[name]),
        latency_ratio_warnings=said,
        reference_latency_ms_p50=theirs,
        latency_ratio_mode=mode,
    )


def _medians(
    name: str, reference: str, blocks: Mapping[str, list[Floats]], seed: int
) -> tuple[float, float, tuple[float, float]]:
    """Both medians, and the 95 % interval of their ratio: block bootstrap (Kuensch, Annals of Statistics 17, 1989) by
    resampled rounds. Of a side that was starved it reaches to what the fastest query of that side says."""
    rounds = len(blocks[name])
    draws = np.random.default_rng(seed).multinomial(rounds, np.full(rounds, 1 / rounds), RESAMPLES)
    medians = {side: _weighted_medians(blocks[side], draws) for side in (name, reference)}
    ours, theirs = (float(np.median(np.concatenate(blocks[side]))) for side in (name, reference))
    centre = np.log(ours / theirs)
    spread = np.percentile(np.log(medians[name] / medians[reference]), [2.5, 97.5]) - centre
    low, high = np.exp(centre + WIDENING * spread)
    own, other = (_starvation(np.concatenate(blocks[side])) for side in (name, reference))
    return ours, theirs, (float(low / own), float(high * other))


def _against_fp16(
    found: LatencyRatio, int8: str, fp16: str, blocks: Mapping[str, list[Floats]], seed: int
) -> LatencyRatio:
    """`found` with the ratio of an INT8 to an FP16 session, and a warning where its interval lies above 1."""
    ours, theirs, interval = _medians(int8, fp16, blocks, seed)
    told = replace(found, fp16_reference=fp16, int8_vs_fp16_ratio=ours / theirs, int8_vs_fp16_ratio_ci=interval)
    said = [told.why_not_int8] if told.why_not_int8 else []
    return replace(told, latency_ratio_warnings=(*told.latency_ratio_warnings, *said))


def _starvation(ms: Floats) -> float:
    """How many times as long as its fastest the usual query of a session took that shares its processors with other
    work; 1 of one that does not."""
    share = float(np.median(ms) / ms.min())
    return share if share > SLOWED else 1.0


def _slowed(name: str, ms: Floats) -> str:
    """What is to be said of a session that was starved; a ratio with it may not hold."""
    share = _starvation(ms)
    advice = "stop other work, or use --threads 1"
    return f"{name}: the median query took {share:.3g} times as long as the fastest: {advice}" if share > 1 else ""


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
