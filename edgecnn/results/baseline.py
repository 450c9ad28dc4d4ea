"""Numbers that were accepted for a recipe on a device: what later runs are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecnn.records import STRICT
from edgecnn.results.latency import EARLIER_MODES


@dataclass(frozen=True, kw_only=True)
class BaselineRow:
    """One engine's accepted latency and size, with what makes them comparable: batch and mode; for the latency its
    interval, the fastest and slowest of several builds, how fast the machine itself was, and why it was
    `latency_unstable` if it was."""

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True
    RENAMED_VALUES: ClassVar[dict[str, dict[str, str]]] = {"mode": EARLIER_MODES}

    batch: int | None = None
    mode: str = ""
    latency_ms_p50: float | None = None
    latency_ms_p50_ci: tuple[float, float | None] | None = None
    latency_ms_p50_band: tuple[float, float] | None = None
    latency_unstable: tuple[str, ...] = ()
    yardstick_ms: float | None = None
    gpu_mhz: float | None = None
    size_mb: float | None = None


@dataclass(frozen=True)
class Baseline:
    """The accepted numbers of every engine, by its name, on the device with this key."""

    __pydantic_config__ = STRICT
    RENAMED: ClassVar[dict[str, str]] = {"accepted": "engines"}

    device_key: str
    engines: dict[str, BaselineRow]
