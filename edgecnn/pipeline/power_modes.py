"""A measurement in each power mode of this Jetson."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgecnn.machine._files import ROOT
from edgecnn.machine.jetson import gpu_clocks
from edgecnn.machine.power import list_power_modes, power_mode_kept, set_power_mode
from edgecnn.results.latency import LatencyFile
from edgecnn.results.power_modes import PowerModeRun, PowerModeSweep

UNLOCKED = "nvpmodel has released the clocks that jetson_clocks held: run `sudo jetson_clocks` again"


def sweep_power_modes(measure: Callable[[], LatencyFile], root: Path = ROOT) -> PowerModeSweep:
    """`measure` in each mode of nvpmodel that can be set without a reboot; the mode of before is set again in the end.
    Raises `DeviceError` where there are none, or this user may not set them."""
    locked = gpu_clocks(root).get("locked")
    with power_mode_kept(root) as before:
        runs = []
        for mode in list_power_modes(root):
            refused = set_power_mode(mode, root)
            runs.append(PowerModeRun(mode.number, mode.name, None if refused else measure(), refused))
    lost = locked and not gpu_clocks(root).get("locked")
    return PowerModeSweep(tuple(runs), before.name, (UNLOCKED,) if lost else ())
