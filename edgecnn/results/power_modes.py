"""One engine in each of a Jetson's power modes."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT
from edgecnn.results.latency import LatencyFile


@dataclass(frozen=True)
class PowerModeRun:
    """What was measured in one mode of nvpmodel, or why it was not set."""

    __pydantic_config__ = STRICT

    power_mode_id: int
    power_mode: str
    result: LatencyFile | None = None
    refused: str = ""


@dataclass(frozen=True)
class PowerModeSweep:
    """Each mode in the order of nvpmodel.conf; `restored` is the one that was set before and is again."""

    __pydantic_config__ = STRICT

    modes: tuple[PowerModeRun, ...]
    restored: str
    warnings: tuple[str, ...] = ()
