"""Which wheels go to which machine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgecnn.errors import RemoteError
from edgecnn.remote import wheels
from edgecnn.remote.setup import machine_of
from edgecnn.remote.wheels import Machine, requirements, resolve, write_own_wheel
from edgecnn.version import __version__

# `python3 -c "import platform; print(platform.python_version(), platform.machine(), platform.libc_ver())"`, and the
# first line of /etc/nv_tegra_release, as NVIDIA's Jetson Linux 36.4 documents them for Ubuntu 22.04.
JETPACK_6 = {"python": "3.10.12", "machine": "aarch64", "glibc": "2.35", "l4t": "# R36 (release), REVISION: 4.3"}


def names(machine: Machine) -> set[str]:
    return {text.partition(">")[0] for text in requirements(machine)}


def test_each_jetpack_has_its_python_and_its_cuda_bindings() -> None:
    jetpack6 = machine_of({**JETPACK_6, "system": "Linux"})
    assert str(jetpack6) == "Python 3.10 on aarch64, glibc 2.35"
    core = {"numpy", "pillow", "pydantic", "typer", "rich"}
    assert names(jetpack6) == core | {"tomli", "cuda-python"}
    assert names(Machine("3.12", "aarch64", 39, jetson=True)) == core | {"cuda-bindings"}
    assert names(Machine("3.10", "x86_64", 35)) == core | {"tomli"}
    assert names(Machine("3.13", "x86_64", 41)) == core
    with pytest.raises(RemoteError, match="without glibc"):
        machine_of({**JETPACK_6, "glibc": "", "system": "Linux 6"})


def test_pip_is_asked_for_the_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels alone, for its Python, architecture and glibc; what none has is listed."""
    asked = list[Sequence[str]]()

    def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        lacking = any(word.startswith(("numpy", "rich")) for word in command)
        return subprocess.CompletedProcess(command, int(lacking), b"", b"ERROR: No matching distribution" * lacking)

    monkeypatch.setattr(wheels.subprocess, "run", run)
    with pytest.raises(
        RemoteError, match=r"no wheels for Python 3\.10 on aarch64, glibc 2\.35 in .*: numpy>=[\d.]+, rich"
    ):
        resolve(Machine("3.10", "aarch64", 35), tmp_path, tmp_path / "wheels")
    first = asked[0]
    assert first[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--only-binary=:all:", "--python-version=3.10", "--abi=cp310", "--abi=abi3", "--no-index"} <= set(first)
    assert {"--platform=manylinux_2_35_aarch64", "--platform=manylinux_2_17_aarch64"} <= set(first)
    assert not any("x86" in word or "manylinux_2_36" in word for word in first)
    assert first.index("--") < min(first.index(word) for word in requirements(Machine("3.10", "aarch64", 35)))


def test_our_own_wheel_is_the_same_for_the_same_code(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    one, two = write_own_wheel(tmp_path), write_own_wheel(tmp_path / "again")
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        inside = set(archive.namelist())
        assert f"Version: {__version__}" in archive.read(f"edgecnn-{__version__}.dist-info/METADATA").decode()
    assert {"edgecnn/__main__.py", "edgecnn/targets.toml", "edgecnn/remote/agent.py"} <= inside
    assert not any("__pycache__" in name or name.startswith("/") for name in inside)
