"""What a picture costs from its file to its logits: stage by stage, in a stream, and when the machine is hot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecnn.records import STRICT
from edgecnn.results.device import Device
from edgecnn.results.latency import Clocks


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """Milliseconds per query of one stage; a percentile that the number of queries does not carry is None.
    `share_pct` is of the sum of all stages but the wait."""

    __pydantic_config__ = STRICT

    name: str
    ms_mean: float
    ms_p50: float
    ms_p90: float | None
    ms_p95: float | None
    ms_p99: float | None
    share_pct: float | None


@dataclass(frozen=True, kw_only=True)
class SoakWindow:
    """A part of a long run, in seconds from its start: latency, throughput of all processes, and the clocks in it."""

    __pydantic_config__ = STRICT

    start_s: float
    end_s: float
    n_queries: int
    latency_ms_p50: float
    latency_ms_p50_ci: tuple[float, float | None]
    latency_ms_p99: float | None
    throughput_images_per_s: float
    clocks: Clocks | None = None


@dataclass(frozen=True, kw_only=True)
class Soak:
    """The machine as it starts (`burst`) and heat-soaked (`soaked`), and how much longer a query then takes."""

    __pydantic_config__ = STRICT

    burst: SoakWindow
    soaked: SoakWindow
    soak_ratio: float


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Frames that arrive by the clock, in each process, whether the engine is free or not (an open loop).

    A frame meets its deadline when its logits are there before the next one comes. `n_waiting` arrived and were
    not begun by the end; those whose deadline had passed are among the missed. `utilization_pct` is the share of the
    time in which a frame was worked on.
    """

    __pydantic_config__ = STRICT

    fps: float
    deadline_ms: float
    n_offered: int
    n_waiting: int
    deadline_missed: int
    deadline_missed_pct: float
    utilization_pct: float


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """Latency from a picture's file to its logits, in milliseconds, over all processes.

    In an open loop it counts from the frame's arrival, so that the wait behind earlier frames is part of it. `stages`
    are in the order of the work: wait (open loop), decode, resize, normalize, h2d, compute, d2h, other.
    """

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True

    name: str
    device: Device
    batch: int
    processes: int
    n_queries: int
    duration_s: float
    clock: str
    latency_ms_mean: float
    latency_ms_p50: float
    latency_ms_p90: float | None = None
    latency_ms_p95: float | None = None
    latency_ms_p99: float | None = None
    latency_ms_max: float
    throughput_images_per_s: float
    stages: tuple[StageTime, ...]
    stream: Stream | None = None
    soak: Soak | None = None
    clocks: Clocks
    warnings: tuple[str, ...] = ()
