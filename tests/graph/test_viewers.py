"""What Netron and other viewers of ONNX draw a graph by holds of every graph that is made here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgecnn.data.open import open_dataset
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.recipe.schema import Around
from edgecnn.results.engine import Scheme

pytestmark = pytest.mark.torch


def faults(model: onnx.ModelProto) -> list[str]:
    """What a viewer cannot draw, or draws as loose ends."""
    graph = model.graph
    stored, given = [i.name for i in graph.initializer], [i.name for i in graph.input]
    made = [name for node in graph.node for name in node.output if name]
    read = {name for node in graph.node for name in node.input if name} | {o.name for o in graph.output}
    names = [node.name for node in graph.node]
    return [
        *(f"a node {node.op_type} without a name" for node in graph.node if not node.name),
        *(f"{n} nodes {name}" for name, n in Counter(names).items() if n > 1),
        *(f"{n} values {name}" for name, n in Counter([*stored, *given, *made]).items() if n > 1),
        *(f"{name} is read and made by nothing" for name in sorted(read - {*stored, *given, *made})),
        *(f"{name} is made and read by nothing" for name in made if name not in read),
        *(f"{name} is stored and read by nothing" for name in stored if name not in read),
        *(f"{name} is described and is no value" for name in sorted({v.name for v in graph.value_info} - {*made})),
    ]


def test_a_graph_with_loose_ends_is_found() -> None:
    value = helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1])
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    nodes = [helper.make_node("Add", ["a", "x"], ["b"], "same"), helper.make_node("Neg", ["a"], ["c"], "same")]
    found = faults(
        helper.make_model(
            helper.make_graph([*nodes, helper.make_node("Neg", ["a"], ["d"])], "g", [value], [value], [weight])
        )
    )
    assert len(found) == 7
    assert {"2 nodes same", "x is read and made by nothing", "w is stored and read by nothing"} <= set(found)


def test_lenet_in_every_precision(digits: Path) -> None:
    graphs = sorted([*digits.glob("*.onnx"), *(digits / "cpu").glob("*.onnx")])
    assert len(graphs) == 8
    assert {path.name: faults(onnx.load(path)) for path in graphs} == {path.name: [] for path in graphs}


def test_a_residual_network_in_every_precision(tmp_path: Path) -> None:
    from torch import nn

    from tests.fakes.exported import exported
    from tests.fakes.modules import Block, Head

    model, _ = exported(Head(nn.Sequential(Block(), nn.MaxPool2d(2), Block(), nn.Hardswish()), 3), tmp_path)
    np.savez(tmp_path / "images.npz", input=np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32))
    ranges = collect_ranges(tmp_path / "net.onnx", open_dataset(str(tmp_path / "images.npz"), None, "train"))
    made = {"fp32": model, "fp16": to_fp16(model)[0]}
    forms: tuple[tuple[Scheme, Around], ...] = (("tensorrt", "fp16"), ("tensorrt", "fp32"), ("ort-cpu", "fp32"))
    for scheme, around in forms:
        made[f"{scheme} {around}"] = quantize_int8(model, ranges, scheme, method="mse", around=around).model
    assert {name: faults(graph) for name, graph in made.items()} == {name: [] for name in made}
