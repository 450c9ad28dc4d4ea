"""Runs side by side, on the same test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT
from edgecnn.results.accuracy import Interval
from edgecnn.results.engine import Scheme
from edgecnn.results.latency import Mode
from edgecnn.results.verdict import Outcome


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One target of a run; `number` stands for it in the rows, `verdict` is "" where nothing was judged."""

    __pydantic_config__ = STRICT

    number: int
    run: str
    recipe: str
    target: str
    device: str
    device_key: str
    verdict: Outcome | Literal[""]


@dataclass(frozen=True, kw_only=True)
class ComparedEngine:
    """One engine of one run. The drop is that from the same engine of the first run that has it, in percentage points
    with its two-sided 95 % interval: `paired` on the same images, else of two samples; None in that run itself. A
    simulated engine has no latency."""

    __pydantic_config__ = STRICT

    number: int
    name: str
    precision: str
    scheme: Scheme
    simulated: bool
    n: int | None
    top1_pct: float | None
    top1_ci_pct: Interval | None
    agreement_pct: float | None
    drop_pp: float | None
    drop_ci_pp: Interval | None
    paired: bool | None
    lost: int | None
    gained: int | None
    mode: Mode | Literal[""]
    batch: int | None
    latency_ms_p50: float | None
    latency_ms_p50_ci: tuple[float, float | None] | None
    throughput_images_per_s: float | None
    device_memory_mb: float | None
    size_mb: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs, and their engines: those of one kind below each other."""

    __pydantic_config__ = STRICT

    data: str
    n: int | None
    runs: tuple[ComparedRun, ...]
    engines: tuple[ComparedEngine, ...]
    notes: tuple[str, ...]
