"""Baselines over the history of a repository."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT
from edgecnn.results.accuracy import Interval


@dataclass(frozen=True, kw_only=True)
class HistoryRow:
    """One engine in one version of a baseline: its accuracy, whatever the device (`device_key` is ""), or its latency
    and size on one. `time` is the commit's (ISO 8601, UTC)."""

    __pydantic_config__ = STRICT

    commit: str
    time: str
    subject: str
    device_key: str
    engine: str
    n: int | None = None
    top1_pct: float | None = None
    top1_ci_pct: Interval | None = None
    batch: int | None = None
    latency_ms_p50: float | None = None
    latency_ms_p50_ci: tuple[float, float | None] | None = None
    size_mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class History:
    """Every version, the oldest first; `unreadable` names those that could not be read, and why."""

    __pydantic_config__ = STRICT

    recipe: str
    rows: tuple[HistoryRow, ...]
    unreadable: tuple[str, ...]
