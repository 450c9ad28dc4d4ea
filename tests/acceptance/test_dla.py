"""What a DLA would leave to the GPU of somebody's own graph, and where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.acceptance.channel_pictures import import_model, make_model

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx
Command = Callable[..., "Result"]


@pytest.fixture
def graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """Two convolutions, the first with a stride that no DLA has, and a global pooling."""
    from onnx import helper

    rng = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "v": (5, 4, 1, 1)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], "wide", strides=[9, 9], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "v"], ["c"], "narrow"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["logits"], "flat"),
    ]
    return import_model(capfd, make_model(nodes, arrays, ["batch", 5]), tmp_path / "m.fp32.onnx")


def test_each_layer_is_told_with_its_reason(graph: Path, edgecnn: Command) -> None:
    done = edgecnn("check", graph, "--target", "agx-orin", "--dla", "--json")
    assert done.code == 0, done.said
    told = {
        (finding["where"], finding["what"])
        for finding in json.loads(done.out)["findings"]
        if any("DLA" in source for source in finding["sources"])
    }
    layers = {where for where, _ in told} - {"graph"}
    assert layers == {"wide", "pool"}
    assert any(where == "wide" and "stride 9, and the DLA takes 1 to 8" in what for where, what in told)
    whole = " ".join(what for where, what in told if where == "graph")
    assert "its batch is not fixed, and the DLA takes static shapes" in whole
    assert "2 of 5 layers run on the GPU" in whole


@pytest.mark.parametrize("target", ["orin-nano", "thor", "rtx-40", "gpu", "cpu"])
def test_a_device_without_a_dla_is_refused(graph: Path, edgecnn: Command, target: str) -> None:
    edgecnn("check", graph, "--target", target, "--dla").refused(f"target {target} ", "DLA", "leave --dla out")
