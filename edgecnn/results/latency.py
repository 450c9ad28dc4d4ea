"""Latency and throughput of engines, and the file that holds those of a target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from edgecnn.records import FLAT, STRICT
from edgecnn.results.device import Device
from edgecnn.results.energy import Energy
from edgecnn.results.engine import EngineFacts, EngineInfo
from edgecnn.results.rebuilds import Rebuilds
from edgecnn.results.startup import Startup

Mode = Literal["pipelined", "single-shot"]
EARLIER_MODES = {"latency": "single-shot", "throughput": "single-shot"}


@dataclass(frozen=True)
class Clocks:
    """One reading; None where the machine does not tell. `locked` is whether the GPU's clock is held fixed,
    `cpu_locked` whether the processor's is; `overcurrent_events` are a Jetson's since it was started."""

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True

    cpu_mhz: float | None = None
    governor: str | None = None
    gpu_mhz: float | None = None
    memory_mhz: float | None = None
    temperature_c: float | None = None
    power_mode: str | None = None
    locked: bool | None = None
    throttled: tuple[str, ...] = ()
    cpu_locked: bool | None = None
    overcurrent_events: int | None = None


@dataclass(frozen=True)
class LatencyRatio:
    """Median of an engine over the median of `latency_reference`, from interleaved blocks of one mode, with its 95 %
    interval, which reaches to what it were by the fastest query of a side that was starved of processors; and where an
    INT8 and an FP16 engine were among those in turn, that of the INT8 one over that of `fp16_reference`."""

    __pydantic_config__ = STRICT

    latency_reference: str
    latency_ratio: float
    latency_ratio_ci: tuple[float, float]
    latency_ratio_rounds: int
    latency_ratio_warnings: tuple[str, ...] = ()
    reference_latency_ms_p50: float | None = None
    fp16_reference: str | None = None
    int8_vs_fp16_ratio: float | None = None
    int8_vs_fp16_ratio_ci: tuple[float, float] | None = None
    latency_ratio_mode: Mode = "single-shot"

    @property
    def why_not_int8(self) -> str:
        """What is to be said where INT8 is slower than FP16, its whole interval above 1; else ""."""
        if self.int8_vs_fp16_ratio_ci is None or self.int8_vs_fp16_ratio_ci[0] <= 1:
            return ""
        low, high = self.int8_vs_fp16_ratio_ci
        return (
            f"INT8 is slower than FP16: {self.int8_vs_fp16_ratio:.3f} x {self.fp16_reference}, 95 % interval "
            f"[{low:.3f}, {high:.3f}]; take FP16, or leave out what INT8 does not make faster (quantize --exclude)"
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Latency:
    """One run: milliseconds per query of `batch` images, images per second, and under which conditions.

    `mode` is whether queries overlap: pipelined ones do, two in flight on each of `streams`, and `enqueue_ms_p50` is
    the host's time to enqueue one; single-shot ones follow each other. By the `clock` "host" a latency is the host's
    time from a query's start to its end.
    A percentile that the number of queries does not carry is None. `graph`, `transfers` and `sync` say what a query
    was: a replayed CUDA graph or not, with or without copies, and how the host waited. `unstable` says why the numbers
    cannot be compared with those of another day; `yardstick_ms` is a fixed piece of work on one core, timed beside the
    queries, and `other_load_cores` how many cores others kept busy. `jit_ms` is the time that the runtime took to
    compile the engine for this GPU, before the first query: in no latency, and short where it had it in its cache.
    `profile` says which of several optimization profiles served the batch. Of the queries, `latency_ms_bin_n` lie
    between each two of the edges `latency_ms_bins`, the last of which leaves out the slowest; earlier files have
    none.
    """

    __pydantic_config__ = STRICT
    RENAMED_VALUES: ClassVar[dict[str, dict[str, str]]] = {"mode": EARLIER_MODES}

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
    clocks: Clocks
    warnings: tuple[str, ...]
    yardstick_ms: float | None = None
    other_load_cores: float | None = None
    unstable: tuple[str, ...] = ()
    enqueue_ms_p50: float | None = None
    streams: int = 1
    jit_ms: float | None = None
    profile: str = ""
    latency_ms_bins: tuple[float, ...] = ()
    latency_ms_bin_n: tuple[Annotated[int, Ge(0)], ...] = ()

    def __repr__(self) -> str:
        return f"Latency({self.in_short})"

    @property
    def in_words(self) -> str:
        """What a query was, and by which clock."""
        streams = f"{self.streams} streams, " if self.streams > 1 else ""
        copies, graph = "with" if self.transfers else "without", "a" if self.graph else "no"
        return f"{streams}clock {self.clock}, {copies} transfers, {graph} CUDA graph, {self.sync}"

    @property
    def in_short(self) -> str:
        """Median, 99th percentile and throughput in one line."""
        p99 = "" if self.p99 is None else f", p99 {self.p99:.3g} ms"
        per_s = f"{self.throughput_images_per_s:.3g} images/s"
        return f"{self.name}: p50 {self.p50:.3g} ms{p99}, {per_s}, batch {self.batch}, n={self.n_queries}"

    @property
    def p50(self) -> float:
        """The median, ms."""
        return self.latency_ms_p50

    @property
    def p99(self) -> float | None:
        """The 99th percentile, ms; None where the queries do not carry it."""
        return self.latency_ms_p99


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One engine in a latency file: its latency, what it is, its ratio to the file's reference, what its start cost,
    and the energy of its queries where a sensor tells it."""

    __pydantic_config__ = STRICT

    latency: Latency = field(metadata=FLAT)
    engine: EngineInfo | None = field(default=None, metadata=FLAT)
    facts: EngineFacts | None = field(default=None, metadata=FLAT)
    ratio: LatencyRatio | None = field(default=None, metadata=FLAT)
    startup: Startup | None = field(default=None, metadata=FLAT)
    rebuilds: Rebuilds | None = field(default=None, metadata=FLAT)
    energy: Energy | None = field(default=None, metadata=FLAT)


@dataclass(frozen=True, kw_only=True, repr=False)
class LatencyFile:
    """`latency.json`: every engine of a target on one device; `reference` is what the ratios are to."""

    __pydantic_config__ = STRICT

    device: Device
    reference: str | None
    measurements: tuple[LatencyRow, ...]

    def __repr__(self) -> str:
        rows = "; ".join(row.latency.in_short for row in self.measurements)
        return f"LatencyFile({self.device.key}: {rows})"

    @property
    def p50(self) -> float:
        """The median of the first engine at its first batch size, ms."""
        return self.measurements[0].latency.p50

    @property
    def p99(self) -> float | None:
        """Its 99th percentile, ms; None where the queries do not carry it."""
        return self.measurements[0].latency.p99
