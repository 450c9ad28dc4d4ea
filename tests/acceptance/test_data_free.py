"""`calibrate --data-free`: of a float32 graph whose network and weights are known, and of no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import edgecnn as ec

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.torch
Command = Callable[..., "Result"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data-free")
    return ec.export("resnet20_cifar", folder / "m.fp32.onnx", weights="none", max_batch=2)


FACTS: dict[str, dict[str, Any]] = {
    "classes in words": {"classes": "x"},
    "a switch": {"classes": True},
    "more classes than memory": {"classes": 10**12},
    "fewer than none": {"classes": -5},
    "other classes": {"classes": 9},
    "a list of networks": {"model": ["resnet20_cifar"]},
    "no network": {"model": "resnet81"},
    "a network of other layers": {"model": "plain20_cifar"},
    "weights that are a number": {"weights": 5},
}


@pytest.mark.parametrize("name", FACTS)
def test_a_sidecar_that_is_not_of_the_graph_is_refused(
    name: str, graph: Path, edgecnn: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecnn.steps import _data_free

    monkeypatch.setattr(_data_free, "IMAGES", 2)
    monkeypatch.setattr(_data_free, "STEPS", 1)
    copy = Path(shutil.copy(graph, tmp_path))
    content = json.loads(graph.with_name(f"{graph.name}.json").read_text())
    content["facts"] |= FACTS[name]
    copy.with_name(f"{copy.name}.json").write_text(json.dumps(content))
    edgecnn("calibrate", copy, "--data-free", "-o", tmp_path / "x.calib.json").refused()
    assert not (tmp_path / "x.calib.json").exists()


def test_a_graph_that_is_not_float32_is_refused_with_what_to_give(
    graph: Path, edgecnn: Command, tmp_path: Path
) -> None:
    half = tmp_path / "m.fp16.onnx"
    assert edgecnn("quantize", graph, "--precision", "fp16", "-o", half).code == 0
    said = edgecnn("calibrate", half, "--data-free", "-o", tmp_path / "x.calib.json")
    said.refused("m.fp16.onnx", "fp16", "the float32 graph that it was made from")
