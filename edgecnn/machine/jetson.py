"""What the operating system tells of a Jetson: read from files, nothing is run, nothing imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgecnn.machine._files import ROOT, number_of, text_of


def board_name(root: Path = ROOT) -> str:
    """The name of an NVIDIA board (Jetson), "" elsewhere and in containers that hide it."""
    model = text_of(root / "proc/device-tree/model")
    return model if "NVIDIA" in model or "Jetson" in model else ""


def available_memory_bytes(root: Path = ROOT) -> int | None:
    """What Linux could give without swapping; bounds the GPU's memory where the two are one."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text_of(root / "proc/meminfo"))
    return int(found[1]) * 1024 if found else None


def gpu_clocks(root: Path = ROOT) -> dict[str, Any]:
    """Fields of `Clocks` of the integrated GPU, {} without one.

    Its devfreq folder is `17000000.gpu` (Orin), `.ga10b`, `.gv11b` (Xavier) or `gpu-gpc-0` (Thor). jetson_clocks is on
    when its lowest allowed frequency is its highest. The board is throttled while one of its alerts is a cooling device
    in use; over-current and under-voltage events are counted since it was started.
    """
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if not re.search(r"\.(gpu|ga10b|gv11b|gp10b|gm20b)$|gpu-gpc", folder.name):
            continue
        now, low, high = (number_of(folder / f) for f in ("cur_freq", "min_freq", "max_freq"))
        if now is None:
            continue
        zones = (root / "sys/class/thermal").glob("thermal_zone*")
        heat = [t for z in zones if re.match(r"gpu", text_of(z / "type"), re.I) and (t := number_of(z / "temp"))]
        return {
            "gpu_mhz": now / 1e6,
            "locked": None if low is None or high is None else low == high,
            "temperature_c": heat[0] / 1000 if heat else None,
            "throttled": _alerts(root),
            "overcurrent_events": _overcurrent_events(root),
        }
    return {}


def _alerts(root: Path) -> tuple[str, ...]:
    devices = sorted((root / "sys/class/thermal").glob("cooling_device*"))
    return tuple(
        kind for d in devices if (kind := text_of(d / "type")).endswith("-alert") and number_of(d / "cur_state")
    )


def _overcurrent_events(root: Path) -> int | None:
    for folder in (root / "sys/class/hwmon").glob("hwmon*"):
        if text_of(folder / "name") == "soctherm_oc":
            counts = [number_of(path) for path in folder.glob("oc*_event_cnt")]
            return int(sum(count for count in counts if count is not None))
    return None
