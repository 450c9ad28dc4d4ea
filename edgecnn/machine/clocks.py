"""Clocks, power mode and throttling while something is measured, as far as the machine lets them be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.machine._files import ROOT
from edgecnn.machine.cpu import cpu_clock_locked, cpu_governor, cpu_mhz
from edgecnn.machine.gpu import Nvml
from edgecnn.machine.jetson import gpu_clocks
from edgecnn.machine.power import power_mode
from edgecnn.results.latency import Clocks

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


def clock_warnings(readings: Sequence[Clocks]) -> list[str]:
    """What the readings of one run say against its numbers."""
    warnings = [*_moved(readings, "cpu_mhz", "CPU clock"), *find_throttling(readings)]
    if any(r.gpu_mhz is not None and r.locked is False for r in readings):
        warnings.append("the GPU clock is not locked: run `sudo jetson_clocks` (Jetson) or `nvidia-smi -lgc`")
    return warnings


def find_throttling(readings: Sequence[Clocks]) -> list[str]:
    """What kept the machine from one speed during a run, whatever the reason."""
    found = [*_moved(readings, "gpu_mhz", "GPU clock"), *_moved(readings, "memory_mhz", "memory clock")]
    if reasons := sorted({reason for r in readings for reason in r.throttled}):
        found.append(f"the GPU was throttled: {', '.join(reasons)}")
    if len({r.power_mode for r in readings}) > 1:
        found.append("the power mode changed during the run")
    return found


def _moved(readings: Sequence[Clocks], field: str, name: str) -> list[str]:
    values = [v for r in readings if (v := getattr(r, field)) is not None]
    if not values or max(values) <= 0 or 100 * (1 - min(values) / max(values)) <= MOVED_PCT:
        return []
    return [f"the {name} moved between {min(values):.0f} and {max(values):.0f} MHz during the run"]
