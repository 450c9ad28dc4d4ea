"""Clocks, power mode and throttling while something is measured, as far as the machine lets them be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.machine._files import ROOT
from edgecnn.machine.cpu import cpu_governor, cpu_mhz
from edgecnn.machine.gpu import Nvml
from edgecnn.machine.jetson import gpu_clocks
from edgecnn.machine.power import power_mode
from edgecnn.results.latency import Clocks

MOVED_PCT = 3.0  # a clock that changes by more than this during a run is said


def read_clocks(root: Path = ROOT, nvml: Nvml | None = None) -> Clocks:
    """The clocks now; `root` is where sysfs and /etc are mounted."""
    facts = gpu_clocks(root) or (nvml.read() if nvml else {})
    return Clocks(
        cpu_mhz=cpu_mhz(root), governor=cpu_governor(root) or None, power_mode=power_mode(root) or None, **facts
    )


def clock_warnings(readings: Sequence[Clocks]) -> list[str]:
    """What the readings of one run say against its numbers."""
    warnings = []
    for field, name in (("gpu_mhz", "GPU clock"), ("memory_mhz", "memory clock"), ("cpu_mhz", "CPU clock")):
        values = [v for r in readings if (v := getattr(r, field)) is not None]
        if values and max(values) > 0 and 100 * (1 - min(values) / max(values)) > MOVED_PCT:
            warnings.append(f"the {name} moved between {min(values):.0f} and {max(values):.0f} MHz during the run")
    reasons = sorted({reason for r in readings for reason in r.throttled})
    if reasons:
        warnings.append(f"the GPU was throttled: {', '.join(reasons)}")
    if len({r.power_mode for r in readings}) > 1:
        warnings.append("the power mode changed during the run")
    if any(r.gpu_mhz is not None and r.locked is False for r in readings):
        warnings.append("the GPU clock is not locked: run `sudo jetson_clocks` (Jetson) or `nvidia-smi -lgc`")
    return warnings
