"""Clocks, power mode and throttling while something is measured, as far as the machine lets them be read.

CPU: cpufreq in sysfs. NVIDIA GPUs: NVML, called through ctypes. Jetson: devfreq in sysfs and nvpmodel's status file;
jetson_clocks is on when the GPU's lowest allowed frequency is its highest.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecnn.machine.jetson import ROOT, power_mode
from edgecnn.results.latency import Clocks

MOVED_PCT = 3.0  # a clock that changes by more than this during a run is said

# nvml.h: nvmlClocksThrottleReason*; idle and the user's own application clocks are not throttling
THROTTLE_REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def read_clocks(root: Path = ROOT, nvml: Nvml | None = None) -> Clocks:
    """The clocks now; `root` is where sysfs and /etc are mounted."""
    facts: dict[str, Any] = {"cpu_mhz": _cpu_mhz(root), "power_mode": power_mode(root) or None}
    facts["governor"] = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    facts.update(_jetson_gpu(root) or (nvml.read() if nvml else {}))
    return Clocks(**facts)


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


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None


def _cpu_mhz(root: Path) -> float | None:
    """Mean over the cores; /proc/cpuinfo where cpufreq is hidden, as in most virtual machines."""
    cores = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    values = [v / 1000 for p in cores if (v := _number(p)) is not None]
    if not values:
        values = [float(v) for v in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(root / "proc/cpuinfo") or "", re.M)]
    return round(sum(values) / len(values), 1) if values else None


def _jetson_gpu(root: Path) -> dict[str, Any] | None:
    """The integrated GPU's devfreq folder: `17000000.gpu` (Orin), `.ga10b`, `.gv11b` (Xavier), `gpu-gpc-0` (Thor)."""
    folders = sorted((root / "sys/class/devfreq").glob("*"))
    for folder in folders:
        if not re.search(r"\.(gpu|ga10b|gv11b|gp10b|gm20b)$|gpu-gpc", folder.name):
            continue
        now, low, high = (_number(folder / f) for f in ("cur_freq", "min_freq", "max_freq"))
        if now is None:
            continue
        zones = (root / "sys/class/thermal").glob("thermal_zone*")
        heat = [t for z in zones if re.match(r"gpu", _text(z / "type") or "", re.I) and (t := _number(z / "temp"))]
        return {
            "gpu_mhz": now / 1e6,
            "locked": None if low is None or high is None else low == high,
            "temperature_c": heat[0] / 1000 if heat else None,
        }
    return None


class Nvml:
    """The few calls of NVIDIA's management library that a reading takes."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def read(self) -> dict[str, Any]:
        """Fields of `Clocks`; those that the driver does not support are left out."""
        facts: dict[str, Any] = {}
        number, reasons = ctypes.c_uint(), ctypes.c_ulonglong()
        for key, clock in (("gpu_mhz", 1), ("memory_mhz", 2)):  # NVML_CLOCK_SM, NVML_CLOCK_MEM
            if self._library.nvmlDeviceGetClockInfo(self._handle, clock, ctypes.byref(number)) == 0:
                facts[key] = float(number.value)
        if self._library.nvmlDeviceGetTemperature(self._handle, 0, ctypes.byref(number)) == 0:
            facts["temperature_c"] = float(number.value)
        names = (
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        )  # 535 renamed it
        ask = next((call for name in names if (call := getattr(self._library, name, None)) is not None), None)
        if ask is not None and ask(self._handle, ctypes.byref(reasons)) == 0:
            facts["throttled"] = tuple(name for bit, name in THROTTLE_REASONS.items() if reasons.value & bit)
        return facts


def open_nvml(library: Any = None) -> Nvml | None:
    """NVML for the first visible GPU, or None where there is no driver or the GPU is not to be found."""
    try:
        library = library or ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    handle = ctypes.c_void_p()
    if library.nvmlInit_v2() != 0:
        return None
    if first.isdigit():
        failed = library.nvmlDeviceGetHandleByIndex_v2(int(first), ctypes.byref(handle))
    else:  # GPU-8f..., or nothing
        failed = library.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(handle))
    return None if failed else Nvml(library, handle)
