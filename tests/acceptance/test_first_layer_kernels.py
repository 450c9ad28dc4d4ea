"""`examples/first_layer_kernels.py`: planted dead, duplicated and opposite filters are found, and only these."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from safetensors.torch import save_file

    from edgecnn.pytorch.models import build_model

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture
def program(root: Path) -> Path:
    return root / "examples" / "first_layer_kernels.py"


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, program, *map(str, arguments)], capture_output=True, text=True)


def test_what_was_planted_is_found_behind_batch_normalization(program: Path, tmp_path: Path) -> None:
    """A kernel of 0, one whose scale is 0, a multiple of another, and its negative."""
    assert len(program.read_text(encoding="utf-8").splitlines()) <= 250
    torch.manual_seed(0)
    network = build_model("resnet20_cifar")
    with torch.no_grad():
        network.conv1.weight[3] = 0
        network.bn1.weight[7] = 0
        network.conv1.weight[9] = 2.5 * network.conv1.weight[2] + 1e-3 * torch.randn(3, 3, 3)
        network.conv1.weight[12] = -network.conv1.weight[5]
    save_file(network.state_dict(), tmp_path / "planted.safetensors")
    done = run(
        program, "resnet20_cifar", "--checkpoint", tmp_path / "planted.safetensors", "-o", tmp_path / "k.png", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["filters"], found["shape"], found["dead"]) == (16, [3, 3, 3], [3, 7])
    assert [(p["first"], p["second"]) for p in found["duplicates"]] == [(2, 9)]
    assert [(p["first"], p["second"]) for p in found["opposites"]] == [(5, 12)]
    with Image.open(tmp_path / "k.png") as sheet:
        colors = {color for _, color in sheet.convert("RGB").getcolors(1 << 20)}
    assert {(200, 30, 30), (230, 140, 0)} <= colors, "frames"
    said = run(program, "resnet20_cifar", "--checkpoint", tmp_path / "none.pth", "-o", tmp_path / "n.png")
    assert (said.returncode, said.stderr.count("\n")) == (2, 2)
    assert not (tmp_path / "n.png").exists()


def test_random_kernels_of_any_shape_are_drawn_and_none_is_named(program: Path) -> None:
    names: dict[str, Any] = runpy.run_path(str(program))
    for shape in ((96, 3, 11, 11), (6, 1, 5, 5), (20, 4, 3, 7)):
        kernels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        found = names["examine"]("conv", kernels)
        assert (found.dead, found.duplicates, found.opposites) == ((), (), ())
        sheet = names["draw"](kernels, found)
        assert min(sheet.size) > 64
        assert max(sheet.size) / min(sheet.size) < 3


def test_a_published_network(program: Path, shared: Path, tmp_path: Path) -> None:
    """MobileNetV2 as Google publishes it has dead filters in its first layer."""
    graph = shared / "weights" / "mobilenet_v2_1.0_224_fp32.onnx"
    done = run(program, graph, "-o", tmp_path / "k.png", "--json")
    assert json.loads(done.stdout)["dead"] == [3, 7, 11, 12, 13, 16, 19, 28]
