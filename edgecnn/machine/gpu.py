"""NVIDIA's GPU: its kernel driver, and its management library (NVML), called through ctypes."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

from edgecnn.machine._files import ROOT, text_of

# nvml.h: nvmlClocksThrottleReason*; idle and the user's own application clocks are not throttling
THROTTLE_REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def driver_version(root: Path = ROOT) -> str:
    """The kernel driver's version ("580.95.05"), or the L4T release of a Jetson ("L4T 36.4.0"), or ""."""
    if version := text_of(root / "sys/module/nvidia/version"):
        return version
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text_of(root / "etc/nv_tegra_release"))
    return f"L4T {release[1]}.{release[2]}" if release else ""


def driver_description(root: Path = ROOT) -> str:
    """The kernel driver, or the L4T release of a Jetson, in the words of its own file; "none" without one."""
    driver, release = (text_of(root / name) for name in ("proc/driver/nvidia/version", "etc/nv_tegra_release"))
    if driver:
        return driver.splitlines()[0].split(":", 1)[-1].strip()
    return release.splitlines()[0].lstrip("# ") if release else "none"


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
