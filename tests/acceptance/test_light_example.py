"""`examples/light`: what is stored there is what its script makes, and is enough for a verdict without PyTorch."""

from __future__ import annotations

import gzip
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.onnx
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "sklearn", "threadpoolctl", "safetensors")))
from edgecnn.cli import main
sys.exit(main(["run", "digits.toml", "--threads", "1", "--out", sys.argv[1]]))
"""


@pytest.mark.cpu_s(20)  # a whole run, in a process of its own
def test_a_verdict_on_int8_without_pytorch(root: Path, tmp_path: Path) -> None:
    light = root / "examples" / "light"
    before = sorted(light.iterdir())
    done = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path], cwd=light, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((tmp_path / "cpu" / "int8.accuracy.json").read_text())
    assert accuracy["n"] == 540
    assert accuracy["top1_pct"] > 97
    assert json.loads((tmp_path / "cpu" / "verdict.json").read_text())["verdict"] == "PASS"
    assert sorted(light.iterdir()) == before


def test_the_stored_pictures_are_those_of_scikit_learn(root: Path, tmp_path: Path) -> None:
    light = root / "examples" / "light"
    runpy.run_path(str(light / "make.py"))["write_pictures"](tmp_path)
    made = sorted(tmp_path.iterdir())
    assert len(made) == 4
    for path in made:
        assert gzip.decompress(path.read_bytes()) == gzip.decompress((light / path.name).read_bytes())
