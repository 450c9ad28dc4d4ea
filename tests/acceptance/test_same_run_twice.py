"""One recipe run twice on one machine, with one thread count, gives the same bytes but for the moment of its making."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.torch

Command = Callable[..., "Result"]
CREATED = re.compile(rb'("created": ")[^"]+(")')
TIMED = ("training-state.pt", "tensorboard")  # a training's own log: how long each epoch took
CASES = [
    pytest.param(("--set", "quantize.method=mse", "--set", "precisions=['fp16','int8']"), marks=pytest.mark.cpu_s(30)),
    pytest.param(("--set", "train.epochs=2", "--threads", "2"), marks=pytest.mark.slow),
]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a run folder, without the moment at which it was made."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: CREATED.sub(rb"\1\2", content) for name, content in files.items() if not name.startswith(TIMED)}


@pytest.mark.parametrize("settings", CASES)
def test_two_runs_give_the_same_artifacts_and_sidecars(
    edgecnn: Command, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    for name in ("one", "two"):
        ask = ("--set", "train.epochs=1", "--threads", "1", "--until", "validate", *settings)
        result = edgecnn("run", "lenet5-digits", *ask, "--out", tmp_path / name)
        assert result.code == 0, result.said
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    steps = {"model.safetensors", "model.fp32.onnx", "model.calib.json", "model.int8-tensorrt.onnx", "reference.npz"}
    assert steps <= one.keys()
    assert any(name.endswith(".accuracy.json") for name in one)
    assert sum(b'"created": ""' in content for content in one.values()) > 10
    assert [name for name in one if one[name] != two[name]] == []
