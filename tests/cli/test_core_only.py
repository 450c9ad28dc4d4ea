"""The wheel in an empty environment with the core's dependencies alone: what a device has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact

pytestmark = pytest.mark.torch

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def device(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the installed `edgecnn` in a folder of its own, away from the checkout."""
    folder = tmp_path_factory.mktemp("device")
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(root / name, source / name)
    for name in ("edgecnn", "recipes", "calibration"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    pip = [sys.executable, "-m", "pip", f"--python={folder / 'env/bin/python'}", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", str(wheel)], check=True)

    def run(*arguments: object, code: int = 0, program: str = "edgecnn") -> subprocess.CompletedProcess[str]:
        command = [str(folder / "env/bin" / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={}, check=False)
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
        return done

    return run


def test_only_the_core_is_installed(device: Run) -> None:
    packages = json.loads(device("doctor", "--json").stdout)["packages"]
    assert packages["numpy"] != "-"
    for heavy in ("torch", "onnx", "onnxruntime", "tensorrt", "scikit-learn"):
        assert packages[heavy] == "-", heavy


def test_every_help(device: Run) -> None:
    text = device("--help").stdout
    names = [
        line.split()[0]
        for line in text.split("Commands:")[1].splitlines()
        if line.startswith("  ") and line[2:3].isalpha()
    ]
    assert len(names) > 14
    script = f"from edgecnn.cli import main\nfor name in {names}:\n    assert main([name, '--help']) == 0"
    printed = device("-c", script, program="python").stdout
    assert re.findall(r"^Usage: edgecnn ([\w-]+)", printed, re.MULTILINE) == names


def test_the_recipes_and_the_zoo_came_along(device: Run) -> None:
    assert "lenet5-digits" in {row["name"] for row in json.loads(device("recipe", "list", "--json").stdout)}
    assert "lenet5" in {row["name"] for row in json.loads(device("models", "--json").stdout)}


def test_what_needs_a_package_names_it(device: Run, tmp_path: Path) -> None:
    done = device("export", "lenet5", "--weights", "none", "-o", tmp_path / "x.onnx", code=2)
    assert done.stderr.startswith("error: ")
    assert "edgecnn[cpu]" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_reads_what_it_can(device: Run, tmp_path: Path) -> None:
    path = tmp_path / "fp32.plan"
    header = b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100)
    write_artifact(path, lambda temporary: temporary.write_bytes(header) and None, Sidecar(kind="engine"))
    assert "10.3.0.26" in device("inspect", path).stdout
    path.write_bytes(header[:-1])
    assert "sha256" in device("inspect", path, code=2).stderr
