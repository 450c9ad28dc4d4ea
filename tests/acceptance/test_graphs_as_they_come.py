"""Graphs as tools of all ages leave them, by the command line alone: brought in, or refused with a hint that is then
followed to the letter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.acceptance.channel_pictures import Result, sidecar
from tests.fakes.foreign import CHANNELS, CLASSES, NORM, SIDE, N, classifier, weights

if TYPE_CHECKING:
    import onnxruntime

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
COUNT = 20


def mixed_precision() -> onnx.ModelProto:
    """Trained with autocast: weights and ends are float32, the convolution in the middle computes in FP16."""
    to_half = [
        N("Cast", [name], [f"{name}_h"], f"to_half_{name}", to=TensorProto.FLOAT16) for name in ("c", "w2", "b2")
    ]
    inner = N("Conv", ["c_h", "w2_h", "b2_h"], ["d_h"], pads=[1] * 4)
    return classifier([*to_half, inner, N("Cast", ["d_h"], ["d"], to=TensorProto.FLOAT), N("Relu", ["d"], ["m"])])


def with_loss() -> onnx.ModelProto:
    """The loss beside the logits, which reads the labels; and nodes out of order."""
    model = classifier([N("Relu", ["c"], ["m"])])
    model.graph.node.append(N("SoftmaxCrossEntropyLoss", ["y", "target"], ["loss"]))
    model.graph.input.append(helper.make_tensor_value_info("target", TensorProto.INT64, ["n"]))
    model.graph.output.insert(0, helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def low_rank() -> onnx.ModelProto:
    """A weight as a product of two in an Einsum of three tensors, a gate by another with an ellipsis, a normalization
    whose convolution is read beside it, and a batch of 0."""
    middle = [
        N("Einsum", ["c", "down", "up"], ["e"], equation="bchw,cd,dk->bkhw"),
        N("Conv", ["e", "w2", "b2"], ["d"], pads=[1] * 4),
        N("BatchNormalization", ["d", *NORM], ["n1"]),
        N("Relu", ["d"], ["a"]),
        N("Add", ["n1", "a"], ["s"]),
        N("Einsum", ["s", "gamma"], ["m"], equation="bc...,c->bc..."),
    ]
    return classifier(middle, given=(0, 3, SIDE, SIDE), down=weights(CHANNELS, 4), up=weights(4, CHANNELS))


FOUND: dict[str, tuple[Callable[[], onnx.ModelProto], str, tuple[str, ...]]] = {
    "mixed precision": (mixed_precision, "makes is float16", ("--to-float32",)),
    "with its loss": (with_loss, "has 2 outputs", ("--output-name", "y")),
    "low rank": (low_rank, "", ()),
}


def given_by(model: onnx.ModelProto, images: Any) -> Any:
    """What ONNX Runtime makes of the original, one image at a time."""
    runs = onnx.ModelProto.FromString(model.SerializeToString())
    for value in (runs.graph.input[0], runs.graph.output[-1]):
        value.type.tensor_type.shape.dim[0].Clear()
    session = onnxruntime.InferenceSession(runs.SerializeToString(), providers=["CPUExecutionProvider"])
    more = {i.name: np.zeros(1, np.int64) for i in session.get_inputs() if i.name != "x"}
    return np.concatenate([session.run(["y"], {"x": image[None], **more})[0] for image in images])


def bring_in(edgecnn: Command, folder: Path, kind: str) -> tuple[Path, Any, Any]:
    """The imported graph, refused first where it has to be; images, and what the original makes of them."""
    make, refusal, hinted = FOUND[kind]
    model, theirs, ours = make(), folder / "theirs.onnx", folder / "ours.onnx"
    onnx.save(model, str(theirs))
    rng = np.random.default_rng(4)
    images = (rng.standard_normal((COUNT, 3, SIDE, SIDE)) + rng.standard_normal((COUNT, 3, 1, 1))).astype(np.float32)
    if refusal:
        edgecnn("import", theirs, "-o", ours).refused(refusal, " ".join(hinted))
    result = edgecnn("import", theirs, *hinted, "-o", ours)
    assert result.code == 0, result.said
    assert sidecar(ours)["facts"]["warnings"] == []
    return ours, images, given_by(model, images)


@pytest.mark.parametrize("kind", FOUND)
def test_a_graph_as_it_comes_is_brought_in(edgecnn: Command, tmp_path: Path, kind: str) -> None:
    ours, images, expected = bring_in(edgecnn, tmp_path, kind)
    session = onnxruntime.InferenceSession(str(ours), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": images})[0]
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()  # FP16 in the middle of an original


def test_and_goes_through_all_steps(edgecnn: Command, tmp_path: Path) -> None:
    ours, images, expected = bring_in(edgecnn, tmp_path, "low rank")
    data = tmp_path / "d.npz"
    np.savez(data, input=images, label=expected.argmax(1))
    ranges, reference = tmp_path / "r.calib.json", tmp_path / "ref.npz"
    int8 = ("--precision", "int8", "--ranges", ranges, "--method")
    steps: list[tuple[object, ...]] = [
        ("calibrate", ours, "--data", data, "-o", ranges),
        ("reference", ours, "--data", data, "-o", reference),
        ("quantize", ours, "--precision", "fp16", "--ranges", ranges, "-o", tmp_path / "fp16.onnx"),
        ("quantize", ours, *int8, "minmax", "-o", tmp_path / "tensorrt.onnx"),
        ("quantize", ours, *int8, "auto", "--data", data, "--scheme", "ort-cpu", "-o", tmp_path / "cpu.onnx"),
    ]
    made = ("fp16", "tensorrt", "cpu")
    judged = ("--reference", reference, "--data", data)
    steps += [("validate", tmp_path / f"{m}.onnx", *judged, "-o", tmp_path / f"{m}.accuracy.json") for m in made]
    for step in steps:
        result = edgecnn(*step)
        assert result.code == 0, f"{step}: {result.said}"
    for name in made:
        accuracy = json.loads((tmp_path / f"{name}.accuracy.json").read_text())
        assert accuracy["n"] == COUNT
        assert accuracy["reference_top1_pct"] == 100
        assert accuracy["sqnr_db"] > (45 if name == "fp16" else 20)


def test_a_dead_graph_and_one_that_is_not_a_number_are_told_apart(edgecnn: Command, tmp_path: Path) -> None:
    source, dead = tmp_path / "theirs.onnx", np.zeros((CLASSES, CHANNELS), np.float32)
    for value, said in ((dead, "the same outputs for different images"), (dead * np.nan, "NaN or infinite")):
        onnx.save(classifier([N("Relu", ["c"], ["m"])], fc=value), str(source))
        edgecnn("import", source, "-o", tmp_path / "ours.onnx").refused(said)


def test_the_label_files_that_everybody_has(edgecnn: Command, tmp_path: Path) -> None:
    """A model's configuration of Hugging Face, Keras' index of classes, and a dictionary as Python prints it."""
    names = [f"c{k}" for k in range(CLASSES)]
    wnids = [f"n0144076{k}" for k in range(CLASSES)]
    numbered = {str(k): name for k, name in enumerate(names)}
    files = {
        "config.json": json.dumps({"architectures": ["ResNet"], "id2label": numbered, "label2id": {}}),
        "index.json": json.dumps({str(k): [wnids[k], names[k]] for k in range(CLASSES)}),
        "labels.txt": str(dict(enumerate(names))),
    }
    source, ours = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    onnx.save(classifier([N("Relu", ["c"], ["m"])]), str(source))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        result = edgecnn("import", source, "--labels", tmp_path / name, "-o", ours)
        assert result.code == 0, result.said
        assert sidecar(ours)["labels"] == names
        assert sidecar(ours)["wnids"] == (wnids if name == "index.json" else None)
