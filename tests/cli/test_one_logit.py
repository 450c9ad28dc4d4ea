"""A classifier of one output as a user has it: a logit or a probability, imported or not; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.errors import GraphError
from edgecnn.graph.decision import require_logits

pytestmark = pytest.mark.torch

SIZE = 8
PREPROCESSING = {
    "resize": SIZE, "crop": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "channels": 3,
}  # fmt: skip
NAMES = ["good", "scratch"]


def graph(sign: float = 1.0, end: str = "", outputs: int = 1) -> onnx.ModelProto:
    """The mean of the picture as the logit z of each output; `end` is what follows it."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["z"], "flatten"),
        *([helper.make_node(end, ["z"], ["s"], "end")] if end else []),
        helper.make_node("Cast", ["s" if end else "z"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    weights = sign * 4 * np.ones((outputs, 3, 1, 1), np.float32) * np.arange(1, outputs + 1)[:, None, None, None]
    model = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(path: Path, model: onnx.ModelProto, described: bool) -> Path:
    """With the sidecar that a graph from elsewhere can have: preprocessing and labels, and no count of its outputs."""
    if described:
        sidecar = Sidecar(kind="graph", preprocessing=PREPROCESSING, labels=NAMES)
        write_artifact(path, lambda temporary: onnx.save(model, str(temporary)), sidecar)
    else:
        onnx.save(model, str(path))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """40 dark pictures of class good and 40 bright ones of class scratch, of each 4 among the others."""
    rng = np.random.default_rng(0)
    for k in range(80):
        bright = (k % 2 == 1) != (k % 20 < 2)
        path = tmp_path / "data" / NAMES[k % 2] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(140, 250, (SIZE, SIZE, 3)) if bright else rng.integers(0, 110, (SIZE, SIZE, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "data"


@pytest.fixture(params=["logit", "probability", "imported logit", "imported probability"])
def pair(request: pytest.FixtureRequest, edgecnn: Callable[..., Any], tmp_path: Path) -> tuple[Path, Path]:
    """A graph of one output, and one that decides every picture the other way."""
    end = "Sigmoid" if "probability" in request.param else ""
    if "imported" not in request.param:
        return saved(tmp_path / "a.onnx", graph(end=end), True), saved(tmp_path / "b.onnx", graph(-1, end), True)
    (tmp_path / "pre.json").write_text(json.dumps(PREPROCESSING))
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    for name, sign in (("a", 1), ("b", -1)):
        source = saved(tmp_path / f"{name}0.onnx", graph(sign, end), False)
        ask = ("--preprocess", tmp_path / "pre.json", "--labels", tmp_path / "labels.txt")
        assert edgecnn("import", source, *ask, "-o", tmp_path / f"{name}.onnx").code == 0
    return tmp_path / "a.onnx", tmp_path / "b.onnx"


def test_accuracy_is_that_of_the_decision(
    edgecnn: Callable[..., Any], pair: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    engine, flipped = pair
    assert edgecnn("reference", engine, "--data", pictures, "-o", tmp_path / "r.npz").code == 0
    ask = ("--reference", tmp_path / "r.npz", "--data", pictures, "--json")
    same = json.loads(edgecnn("validate", engine, *ask).out)
    assert (same["task"], same["top1_pct"], same["agreement_pct"], same["classes"]) == ("binary", 90, 100, 2)
    result = edgecnn("validate", flipped, *ask)
    found = json.loads(result.out)
    assert (found["top1_pct"], found["reference_top1_pct"], found["agreement_pct"]) == (10, 90, 0)
    assert (found["top1_drop_pp"], found["top1_lost"], found["top1_gained"]) == (80, 72, 8)
    live = json.loads(edgecnn("validate", flipped, "--reference", engine, "--data", pictures, "--json").out)
    assert live == found


def test_the_stages_count_changed_decisions(
    edgecnn: Callable[..., Any], pair: tuple[Path, Path], pictures: Path
) -> None:
    engine, flipped = pair
    result = edgecnn("validate", flipped, "--reference", engine, "--data", pictures, "--stages", "--json")
    assert result.code == 0, result.err
    (hop,) = json.loads(result.out)["stages"]
    assert (hop["changed"], hop["agreement_pct"], hop["top1_drop_pp"]) == (80, 0, 80)


def test_predict_gives_both_classes_their_probability(
    edgecnn: Callable[..., Any], pair: tuple[Path, Path], pictures: Path
) -> None:
    dark, bright = (pictures / name / f"{k}.png" for name, k in (("good", 10), ("scratch", 11)))
    rows = json.loads(edgecnn("predict", pair[0], dark, bright, "--json").out)
    for row, first in zip(rows, ([0, 1], [1, 0]), strict=True):
        mean = (np.asarray(Image.open(row["image"]), np.float64) / 255 - 0.5).mean() / 0.5 * 12
        p = 1 / (1 + np.exp(-mean))
        assert [c["class"] for c in row["top5"]] == first
        assert [c["label"] for c in row["top5"]] == [NAMES[k] for k in first]
        assert [c["probability"] for c in row["top5"]] == pytest.approx([[1 - p, p][k] for k in first], abs=1e-4)


@pytest.mark.parametrize("described", [True, False])
def test_a_sigmoid_for_each_of_several_classes_is_refused(
    edgecnn: Callable[..., Any], pictures: Path, tmp_path: Path, described: bool
) -> None:
    multi = saved(tmp_path / "m.onnx", graph(end="Sigmoid", outputs=2), described)
    tensors = tmp_path / "d.npz"
    np.savez(tensors, input=np.random.default_rng(0).standard_normal((4, 3, SIZE, SIZE)).astype(np.float32))
    data = pictures if described else tensors
    logits = saved(tmp_path / "l.onnx", graph(outputs=2), described)
    assert edgecnn("reference", logits, "--data", data, "-o", tmp_path / "l.npz").code == 0
    asks: list[tuple[object, ...]] = [
        ("import", multi, "-o", tmp_path / "i.onnx"),
        ("reference", multi, "--data", data, "-o", tmp_path / "r.npz"),
        ("validate", multi, "--reference", tmp_path / "l.npz", "--data", data),
        ("validate", logits, "--reference", multi, "--data", data),
    ]
    if described:
        asks.append(("predict", multi, pictures / "good" / "00.png"))
    for ask in asks:
        assert "multi-label is not supported" in edgecnn(*ask).refused()
    assert not (tmp_path / "r.npz").exists()
    assert not (tmp_path / "i.onnx").exists()


def test_no_plan_is_built_of_a_graph_that_ends_in_a_sigmoid(tmp_path: Path) -> None:
    nothing = Sidecar(kind="graph")
    require_logits(saved(tmp_path / "logit.onnx", graph(), False), nothing)
    with pytest.raises(GraphError, match="ends in a sigmoid, and a plan of it would be read as logits"):
        require_logits(saved(tmp_path / "sigmoid.onnx", graph(end="Sigmoid"), False), nothing)
