"""What is read from a Jetson's files."""

from __future__ import annotations

from pathlib import Path

from edgecnn.machine.gpu import driver_version
from edgecnn.machine.jetson import available_memory_bytes, board_name
from edgecnn.machine.power import power_mode


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dash_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_jetson(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "proc__device_dash_tree__model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
            "etc__nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64",
            "var__lib__nvpmodel__status": "pmode:0002 fmode:quiet",
            "etc__nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n",
            "proc__meminfo": "MemTotal: 16000000 kB\nMemAvailable:    9000000 kB\n",
        },
    )
    assert board_name(tmp_path).endswith("Developer Kit")
    assert driver_version(tmp_path) == "L4T 36.4.3"
    assert power_mode(tmp_path) == "15W"
    assert available_memory_bytes(tmp_path) == 9_216_000_000


def test_a_desktop_and_nothing(tmp_path: Path) -> None:
    assert (board_name(tmp_path), driver_version(tmp_path), power_mode(tmp_path)) == ("", "", "")
    assert available_memory_bytes(tmp_path) is None
    write(tmp_path, sys__module__nvidia__version="580.95.05\n")
    assert driver_version(tmp_path) == "580.95.05"


def test_another_maker_s_board_is_none_of_ours(tmp_path: Path) -> None:
    write(tmp_path, proc__device_dash_tree__model="Raspberry Pi 5\0")
    assert board_name(tmp_path) == ""
