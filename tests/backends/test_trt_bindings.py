"""The real Python bindings of three versions, on stub libraries: names, argument names and types, by calling them.

Needs gcc and the package index; the bindings are NVIDIA's and are never kept. EDGECNN_REQUIRE_NVIDIA=1 makes a skip a
failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.nvidia, pytest.mark.onnx]

HERE = Path(__file__).parent
VERSIONS = {
    "10.3.0": ("tensorrt-cu12-bindings", "100300"),
    "10.16.1.11": ("tensorrt-cu12-bindings", "101601"),
    "11.4.0.106": ("tensorrt-cu13-bindings", "110400"),
}


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_bindings_take_every_call(version: str, tmp_path: Path, root: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    package, number = VERSIONS[version]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path)]
    found = subprocess.run([*download, f"{package}=={version}"], capture_output=True, text=True, timeout=250)
    if "No matching distribution" in found.stderr:
        pytest.skip(f"pip finds no {package} {version} (for this Python, or at all): {found.stderr.strip()[-200:]}")
    assert found.returncode == 0, found.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    stubs = tmp_path / "stubs"
    subprocess.run([HERE / "stub" / "build.sh", version.split(".")[0], number, str(stubs)], check=True)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(stubs),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(root)]),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    probe = [sys.executable, str(HERE / "bindings_probe.py"), str(tmp_path), version]
    ran = subprocess.run(probe, capture_output=True, text=True, env=environment, timeout=200)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{version}: " in ran.stdout
