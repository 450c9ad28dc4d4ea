"""What measures electric power here: a Jetson's rails, or an NVIDIA GPU by its management library.

Rails are read from the hwmon folders of the kernel's drivers for the INA3221 and its kin (Documentation/hwmon/
ina3221.rst: in*_label, in*_input in mV, curr*_input in mA; power*_input, where a driver has it, is in uW), which are
the same on JetPack 6 and 7. Which rails make up the module, by the Jetson Linux Developer Guide (r36.4, Platform Power
and Performance) and the device trees of Tegra234: VDD_IN is all of an Orin NX or Nano; an AGX Orin has no such rail,
and VDDQ_VDD2_1V8AO is a part of its VIN_SYS_5V0; VIN is all of a Thor, its carrier board included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecnn.errors import MeasurementError
from edgecnn.machine._files import ROOT, number_of, text_of
from edgecnn.machine.gpu import open_nvml
from edgecnn.machine.jetson import board_name

# The first of these sets that a machine has is added up; its other rails are parts of them.
WHOLE = (
    ("VIN",),
    ("VDD_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
)
DRIVERS = re.compile(r"ina\d+")
GPU_RAIL = "GPU board"
NVML_AVERAGES_S = 1.0  # nvmlDeviceGetPowerUsage from Ampere on, GA100 apart


@dataclass(frozen=True)
class PowerSensor:
    """`read` gives watts by rail, or joules so far where it `counts_energy`, None where it fails; `rails` are those to
    be added up. A reading is the mean over `averages_s` seconds before it."""

    name: str
    rails: tuple[str, ...]
    read: Callable[[], Mapping[str, float] | None]
    counts_energy: bool = False
    averages_s: float = 0.0


def open_power_sensor(pci_bus_id: str = "", root: Path = ROOT) -> PowerSensor | None:
    """The rails of the board; else the GPU at a PCI bus id; None for a machine that has neither. Raises
    `MeasurementError` for rails of which it is not known what they add up to."""
    found = _rails(root)
    wanted = next((names for names in WHOLE if found.keys() >= set(names)), None)
    if wanted is not None:
        return PowerSensor("INA3221 (hwmon)", wanted, lambda: _watts(found))
    if found and board_name(root):
        raise MeasurementError(
            f"it is not known which of the rails {', '.join(found)} make up {board_name(root)}",
            "measure at its supply; the names that are known stand in docs/power.md",
        )
    nvml = open_nvml(pci_bus_id)
    if nvml is None:
        return None
    if nvml.energy_j() is not None:
        return PowerSensor("NVML's energy counter", (GPU_RAIL,), lambda: _named(nvml.energy_j()), counts_energy=True)
    if nvml.power_w() is not None:
        return PowerSensor(
            "NVML's power readings", (GPU_RAIL,), lambda: _named(nvml.power_w()), averages_s=NVML_AVERAGES_S
        )
    return None


def _rails(root: Path) -> dict[str, tuple[Path, str]]:
    """Folder and channel of each rail that has a name and can be read."""
    found: dict[str, tuple[Path, str]] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not DRIVERS.fullmatch(text_of(folder / "name")):
            continue
        names = {path.name[2 : -len("_label")]: text_of(path) for path in sorted(folder.glob("in[0-9]*_label"))}
        for channel, name in (names or {"1": text_of(folder / "label")}).items():
            if name and _channel_watts(folder, channel) is not None:  # in7 is the sum of the shunts, in mV alone
                found.setdefault(name, (folder, channel))
    return found


def _watts(rails: Mapping[str, tuple[Path, str]]) -> dict[str, float] | None:
    read = {name: _channel_watts(folder, channel) for name, (folder, channel) in rails.items()}
    return None if None in read.values() else {name: watts for name, watts in read.items() if watts is not None}


def _channel_watts(folder: Path, channel: str) -> float | None:
    if (microwatts := number_of(folder / f"power{channel}_input")) is not None:
        return microwatts / 1e6
    millivolts, milliamperes = (number_of(folder / f"{what}{channel}_input") for what in ("in", "curr"))
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _named(value: float | None) -> dict[str, float] | None:
    return None if value is None else {GPU_RAIL: value}
