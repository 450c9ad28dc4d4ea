"""What the operating system tells of the board and of its driver: read from files, nothing is run, nothing imported."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")


def board_name(root: Path = ROOT) -> str:
    """The name of an NVIDIA board (Jetson), "" elsewhere and in containers that hide it."""
    model = _read(root / "proc/device-tree/model").rstrip("\0\n ")
    return model if "NVIDIA" in model or "Jetson" in model else ""


def driver_version(root: Path = ROOT) -> str:
    """The kernel driver's version ("580.95.05"), or the L4T release of a Jetson ("L4T 36.4.0"), or ""."""
    if version := _read(root / "sys/module/nvidia/version").strip():
        return version
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release"))
    return f"L4T {release[1]}.{release[2]}" if release else ""


def power_mode(root: Path = ROOT) -> str:
    """The nvpmodel power mode of a Jetson by name ("MAXN"), or ""."""
    status = re.search(r"pmode:0*(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if not status:
        return ""
    named = re.search(rf"POWER_MODEL\s+ID={status[1]}\s+NAME=(\S+)", _read(root / "etc/nvpmodel.conf"))
    return named[1].rstrip(">") if named else f"mode {status[1]}"


def available_memory_bytes(root: Path = ROOT) -> int | None:
    """What Linux could give without swapping; bounds the GPU's memory where the two are one."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"))
    return int(found[1]) * 1024 if found else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
