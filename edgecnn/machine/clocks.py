"""Clocks, power mode and throttling while something is measured, as far as the machine lets them be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.errors import MeasurementError
from edgecnn.machine._files import ROOT
from edgecnn.machine.cpu import cpu_clock_locked, cpu_governor, cpu_mhz
from edgecnn.machine.gpu import Nvml
from edgecnn.machine.jetson import board_name, gpu_clocks
from edgecnn.machine.power import power_mode
from edgecnn.results.latency import Clocks

NOT_LOCKED = "the GPU clock is not locked: run `sudo jetson_clocks` (Jetson) or `nvidia-smi -lgc`"
MOVED_PCT = 3.0  # a clock that changes by more than this during a run is said


def read_clocks(root: Path = ROOT, nvml: Nvml | None = None) -> Clocks:
    """The clocks now; `root` is where sysfs and /etc are mounted."""
    facts = gpu_clocks(root) or (nvml.read() if nvml else {})
    return Clocks(
        cpu_mhz=cpu_mhz(root),
        cpu_locked=cpu_clock_locked(root),
        governor=cpu_governor(root) or None,
        power_mode=power_mode(root) or None,
        **facts,
    )


def clock_warnings(readings: Sequence[Clocks], root: Path = ROOT) -> list[str]:
    """What the readings of one run say against its numbers; the first is of before the run."""
    warnings = [*_moved(readings, "cpu_mhz", "CPU clock"), *find_throttling(readings)]
    if any(r.gpu_mhz is not None and r.locked is False for r in readings):
        warnings.append(NOT_LOCKED)
    return list(dict.fromkeys((*warnings, *(find_obstacles(readings[0], root) if readings else []))))


def find_obstacles(now: Clocks, root: Path = ROOT) -> list[str]:
    """What speaks against measuring on a Jetson in this state: nvpmodel's mode, jetson_clocks, throttling. Of another
    machine it tells nothing. A mode below the fastest is a choice, and part of what latencies are compared by."""
    if not board_name(root):
        return []
    found = []
    if now.power_mode is None:
        found.append("the power mode cannot be read, by which latencies are compared: look at `sudo nvpmodel -q`")
    if now.locked is None:
        found.append("whether `sudo jetson_clocks` holds the GPU clock cannot be read")
    elif not now.locked:
        found.append(NOT_LOCKED)
    if now.cpu_locked is False:
        found.append("the CPU clock is not locked: run `sudo jetson_clocks`")
    if now.throttled:
        found.append(f"throttled before the run ({', '.join(now.throttled)}): let the board cool down")
    return found


def require_ready(root: Path = ROOT) -> None:
    """Raise `MeasurementError` where something speaks against measuring now, and where that cannot be looked at."""
    board = board_name(root)
    if not board:
        raise MeasurementError(
            "a strict bench looks at a Jetson's power mode, clocks and throttling, and this machine is none",
            "measure without it; what the clocks of other machines did is said after the run",
        )
    if obstacles := find_obstacles(read_clocks(root), root):
        raise MeasurementError(
            f"{board} is not ready to be measured: {'; '.join(obstacles)}",
            "put it right (`sudo nvpmodel -m 0 && sudo jetson_clocks`), or measure without --strict: warnings say it",
        )


def find_throttling(readings: Sequence[Clocks]) -> list[str]:
    """What kept the machine from one speed during a run, whatever the reason."""
    found = [*_moved(readings, "gpu_mhz", "GPU clock"), *_moved(readings, "memory_mhz", "memory clock")]
    if reasons := sorted({reason for r in readings for reason in r.throttled}):
        found.append(f"the GPU was throttled: {', '.join(reasons)}")
    events = [r.overcurrent_events for r in readings if r.overcurrent_events is not None]
    if events and events[-1] > events[0]:
        found.append(f"the board was slowed down by {events[-1] - events[0]} over-current or under-voltage events")
    if len({r.power_mode for r in readings}) > 1:
        found.append("the power mode changed during the run")
    return found


def _moved(readings: Sequence[Clocks], field: str, name: str) -> list[str]:
    values = [v for r in readings if (v := getattr(r, field)) is not None]
    if not values or max(values) <= 0 or 100 * (1 - min(values) / max(values)) <= MOVED_PCT:
        return []
    return [f"the {name} moved between {min(values):.0f} and {max(values):.0f} MHz during the run"]
