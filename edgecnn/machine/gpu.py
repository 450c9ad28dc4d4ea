"""NVIDIA's GPU: its kernel driver, and its management library (NVML) by the package nvidia-ml-py."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecnn.machine._files import ROOT, text_of

# nvml.h: nvmlClocksEventReason*; idle and the user's own setting are not throttling
IDLE, USER_SETTING = 0x01, 0x02
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
        nvml = self._library
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)  # came with driver 535
        why = self._asked(reasons) if reasons else None
        if why is None:
            why = self._asked(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        numbers = {
            "gpu_mhz": self._asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "memory_mhz": self._asked(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            "temperature_c": self._asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        }
        facts: dict[str, Any] = {key: float(value) for key, value in numbers.items() if value is not None}
        if why is not None:
            highest = self._asked(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM)
            facts["throttled"] = tuple(name for bit, name in THROTTLE_REASONS.items() if why & bit)
            facts["locked"] = _locked(why, numbers["gpu_mhz"], highest)
        return facts

    def energy_j(self) -> float | None:
        """Joules that the GPU's board took since the driver was loaded; None where it does not count them."""
        found = self._asked(self._library.nvmlDeviceGetTotalEnergyConsumption)
        return None if found is None else found / 1000

    def power_w(self) -> float | None:
        """Watts that the GPU's board takes; None where it does not tell."""
        found = self._asked(self._library.nvmlDeviceGetPowerUsage)
        return None if found is None else found / 1000

    def _asked(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(self._handle, *arguments)
        except self._library.NVMLError:
            return None


def _locked(reasons: int, mhz: int | None, max_mhz: int | None) -> bool | None:
    """Whether the user holds the clock (`nvidia-smi -lgc` or `-ac`): NVML has no call that says so, but names the
    setting as what limits a clock. Of an idle GPU, of one that something else slows down, and at the highest clock,
    which nothing limits, it tells nothing."""
    if reasons & USER_SETTING:
        return True
    slowed = any(reasons & bit for bit in THROTTLE_REASONS)
    return None if reasons & IDLE or slowed or mhz is None or max_mhz is None or mhz >= max_mhz else False


def open_nvml(pci_bus_id: str, library: Any = None) -> Nvml | None:
    """NVML for the GPU at a PCI bus id ("0000:01:00.0"): CUDA and NVML number the GPUs in different orders. None
    without an id, the package or a driver, and where the GPU is not to be found."""
    if not pci_bus_id:
        return None
    try:
        library = library or importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
        return Nvml(library, library.nvmlDeviceGetHandleByPciBusId(pci_bus_id))
    except library.NVMLError:
        return None
