"""Graphs exported without `model.eval()` are refused in those words wherever a graph is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.fakes.graphs import build

pytestmark = pytest.mark.torch

TEXT = """
c = Conv(input, out=6, k=3)
n = BatchNormalization(c)
r = Relu(n)
g = GlobalAveragePool(r)
f = Flatten(g)
logits = Gemm(f, out=3)
"""


def batch_normalised(outputs: int, opset: int = 19) -> Any:
    """Training mode is an attribute from opset 14 on; before, it is that there are five outputs."""
    model = build(TEXT, channels=3)
    node = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    node.output.extend(f"n{k}" for k in range(1, outputs))
    if opset >= 14:
        node.attribute.append(helper.make_attribute("training_mode", 1))
    model.opset_import[0].version = opset
    return model


def dropped(mode: str, opset: int = 19, mask: bool = False) -> Any:
    """A Dropout before the Gemm, its training_mode a constant of some kind, or left out."""
    model = build(TEXT, channels=3)
    inputs, before = ["f"], []
    if mode:
        value = numpy_helper.from_array(np.array("true" in mode), "mode")
        if mode.startswith("initializer"):
            model.graph.initializer.append(value)
        else:
            before.append(helper.make_node("Constant", [], ["mode"], value=value))
        if mode.endswith("passed on"):
            before.append(helper.make_node("Identity", ["mode"], ["same"]))
        inputs += ["", "same" if mode.endswith("passed on") else "mode"]
    last = model.graph.node[-1]
    last.input[0] = "d"
    kept = list(model.graph.node)[:-1]
    node = helper.make_node("Dropout", inputs, ["d", "mask"] if mask else ["d"], "drop")
    del model.graph.node[:]
    model.graph.node.extend([*kept, *before, node, last])
    model.opset_import[0].version = opset
    return model


def randomly_skipped() -> Any:
    """Stochastic depth as it is exported while training."""
    model = build("c = Conv(input)\ng = GlobalAveragePool(c)\nlogits = Flatten(g)", channels=3)
    shape = helper.make_node("RandomUniformLike", ["c"], ["u"], "chance")
    product = helper.make_node("Mul", ["c", "u"], ["m"], "skip")
    nodes = list(model.graph.node)
    nodes[1].input[0] = "m"
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], shape, product, *nodes[1:]])
    return model


REFUSED = {
    "BatchNormalization, one output": lambda: batch_normalised(1),
    "BatchNormalization, three outputs": lambda: batch_normalised(3),
    "BatchNormalization before opset 14": lambda: batch_normalised(5, opset=9),
    "Dropout": lambda: dropped("initializer true"),
    "Dropout by a Constant": lambda: dropped("node true"),
    "Dropout passed on": lambda: dropped("node true passed on"),
    "random": randomly_skipped,
}
TAKEN = {
    "Dropout off": lambda: dropped("initializer false"),
    "Dropout off, passed on": lambda: dropped("node false passed on"),
    "Dropout with a mask": lambda: dropped("", mask=True),
    "Dropout of opset 10": lambda: dropped("", opset=10),
    "BatchNormalization": lambda: build(TEXT, channels=3),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_import_refuses_it(kind: str, tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    onnx.save(REFUSED[kind](), tmp_path / "m.onnx")
    said = edgecnn("import", tmp_path / "m.onnx", "-o", tmp_path / "made.onnx").refused()
    assert "exported in training mode" in said
    assert "model.eval()" in said
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize("kind", TAKEN)
def test_import_takes_the_same_in_inference(kind: str, tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    onnx.save(TAKEN[kind](), tmp_path / "m.onnx")
    done = edgecnn("import", tmp_path / "m.onnx", "-o", tmp_path / "made.onnx")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "command",
    [
        "quantize m.onnx --precision fp16 -o made.onnx",
        "quantize m.onnx --precision int8 --data images.npz -o made.onnx",
        "calibrate m.onnx --data images.npz -o made.calib.json",
        "reference m.onnx --data images.npz -o made.npz",
        "validate m.onnx --reference good.npz --data images.npz",
        "validate good.onnx --reference m.onnx --data images.npz",
        "bench --engine m.onnx",
        "build m.onnx -o made.onnx",
    ],
)
@pytest.mark.parametrize("kind", ["BatchNormalization, three outputs", "Dropout"])
def test_every_command_that_takes_a_graph_refuses_it(
    kind: str, command: str, tmp_path: Path, edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(REFUSED[kind](), "m.onnx")
    onnx.save(build(TEXT, channels=3), "good.onnx")
    images = np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)
    np.savez("images.npz", input=images, labels=np.arange(24) % 3)
    if "good.npz" in command:
        assert edgecnn("reference", "good.onnx", "--data", "images.npz", "-o", "good.npz").code == 0
    assert "exported in training mode" in edgecnn(*command.split()).refused()
    assert not list(tmp_path.glob("made*"))
