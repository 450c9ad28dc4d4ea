"""Graphs that another tool quantized, against an own reference: what is reported is what a CPU gives by hand."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tests.acceptance.channel_pictures import Result, write_json
from tests.acceptance.nets import PREPROCESSING, SIZE, Floats, Net, normalized, pictures, run

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
COUNT, CLASSES = 90, ("ash", "birch", "cedar", "elm", "fir", "oak")


def network(end: str = "") -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.conv("c1", "input", (3, 8)))
    scores = net.head(net.relu(net.conv("c2", x, (8, 8))))
    return net.model(net.node(end, "prob", scores, axis=1) if end else scores)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in class folders, the preprocessing, the labels and the network of a reference that is still to be
    made."""
    folder = tmp_path_factory.mktemp("third-party")
    pixels, labels = pictures(COUNT)
    for k, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder / "data" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "data" / CLASSES[label] / f"{k:03d}.png")
    write_json(folder / "p.json", PREPROCESSING)
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    onnx.save(network(), str(folder / "source.onnx"))
    return folder


@pytest.fixture
def reference(place: Path, edgecnn: Command) -> Path:
    made = place / "reference.npz"
    if not made.exists():
        named = ("--preprocess", place / "p.json", "--labels", place / "labels.txt")
        assert edgecnn("import", place / "source.onnx", *named, "-o", place / "ours.onnx").code == 0
        assert edgecnn("reference", place / "ours.onnx", "--data", place / "data", "-o", made).code == 0
    return made


def quantize_by_onnxruntime(source: Path, made: Path, form: str, **options: Any) -> Path:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows: Iterator[Floats] = iter(normalized(pictures(24, seed=7)[0]))

        def get_next(self) -> dict[str, Floats] | None:
            row = next(self.rows, None)
            shape = onnx.load(source).graph.input[0].type.tensor_type.shape.dim
            last = shape[1].dim_value != 3
            return None if row is None else {"input": row.transpose(1, 2, 0)[None] if last else row[None]}

    logging.disable(logging.WARNING)
    try:
        chosen = quantization.QuantFormat[form]
        quantization.quantize_static(source, made, Reader(), quant_format=chosen, extra_options=options)
    finally:
        logging.disable(logging.NOTSET)
    return made


def given_by(graph: Path, images: Floats, optimized: bool = True) -> Floats:
    """What ONNX Runtime gives for a graph."""
    if not optimized:
        return run(onnx.load(graph), images)
    from edgecnn.backends._onnxruntime import open_session

    session = open_session(graph)  # whose sums do not saturate on a processor without VNNI
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


SYMMETRIC = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
KINDS = {
    "QDQ": ("QDQ", {}, "", "ort-cpu"),
    "QOperator": ("QOperator", {}, "", "ort-cpu"),
    "symmetric QDQ": ("QDQ", SYMMETRIC, "", "tensorrt"),
    "QDQ with a Softmax": ("QDQ", {}, "Softmax", "ort-cpu"),
    "QOperator with a Softmax": ("QOperator", {}, "Softmax", "ort-cpu"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_another_tool_quantized_is_measured_by_the_reference(
    edgecnn: Command, place: Path, reference: Path, tmp_path: Path, kind: str
) -> None:
    form, options, end, scheme = KINDS[kind]
    onnx.save(network(end), str(tmp_path / "source.onnx"))
    theirs = quantize_by_onnxruntime(tmp_path / "source.onnx", tmp_path / "theirs.onnx", form, **options)
    out = tmp_path / "theirs.accuracy.json"
    result = edgecnn("validate", theirs, "--reference", reference, "--data", place / "data", "-o", out)
    assert result.code == 0, result.said
    assert f"{theirs}: has no sidecar: preprocessing and labels are those of {reference}" in result.err
    found = json.loads(out.read_text())
    pixels, labels = pictures(COUNT)
    scores = given_by(theirs, normalized(pixels), optimized=scheme == "ort-cpu")
    exact = run(onnx.load(place / "source.onnx"), normalized(pixels))
    assert found["top1_pct"] == pytest.approx(100 * (scores.argmax(1) == labels).mean())
    assert found["reference_top1_pct"] == pytest.approx(100 * (exact.argmax(1) == labels).mean())
    assert found["agreement_pct"] == pytest.approx(100 * (scores.argmax(1) == exact.argmax(1)).mean())
    assert found["output"] == ("probabilities" if end else "logits")
    assert (found["sqnr_db"] is None) is bool(end)  # probabilities are not set against logits
    if not end:
        noise = np.square(exact - scores).sum()
        assert found["sqnr_db"] == pytest.approx(10 * np.log10(np.square(exact).sum() / noise), abs=0.05)
    assert found["precision_requested"] == "int8"
    assert found["scheme"] == scheme
    assert found["provenance"]["preprocessing"]["mean"] == PREPROCESSING["mean"]


def channels_last(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as Keras hands it over: a Transpose of [N, H, W, C] in front of everything."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["nchw" if name == "input" else name for name in node.input]
    graph.node.insert(0, helper.make_node("Transpose", ["input"], ["nchw"], "to_nchw", perm=[0, 3, 1, 2]))
    graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", SIZE, SIZE, 3]))
    return model


def test_a_quantized_graph_of_keras_is_fed_channels_last(
    edgecnn: Command, place: Path, reference: Path, tmp_path: Path
) -> None:
    onnx.save(channels_last(network()), str(tmp_path / "source.onnx"))
    theirs = quantize_by_onnxruntime(tmp_path / "source.onnx", tmp_path / "theirs.onnx", "QDQ")
    command = ("validate", theirs, "--reference", reference, "--data", place / "data", "--json")
    result = edgecnn(*command)
    assert result.code == 0, result.said
    scores = given_by(theirs, np.ascontiguousarray(normalized(pictures(COUNT)[0]).transpose(0, 2, 3, 1)))
    found = json.loads(result.out)
    assert found["top1_pct"] == pytest.approx(100 * (scores.argmax(1) == pictures(COUNT)[1]).mean())
    exact = run(onnx.load(place / "source.onnx"), normalized(pictures(COUNT)[0]))
    noise = np.square(exact - scores).sum()
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(np.square(exact).sum() / noise), abs=0.05)


def test_the_output_of_a_pooling_is_one_row_for_each_image(
    edgecnn: Command, place: Path, reference: Path, tmp_path: Path
) -> None:
    model = network()
    model.graph.node.append(helper.make_node("Unsqueeze", ["logits", "axes"], ["wide"], "unsqueeze"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["n", 6, 1, 1]))
    onnx.save(model, str(tmp_path / "s.onnx"))
    theirs = quantize_by_onnxruntime(tmp_path / "s.onnx", tmp_path / "theirs.onnx", "QDQ")
    result = edgecnn("validate", theirs, "--reference", reference, "--data", place / "data", "--json")
    assert result.code == 0, result.said
    assert json.loads(result.out)["agreement_pct"] > 90


def test_stages_and_ten_crops_take_the_preprocessing_too(
    edgecnn: Command, place: Path, reference: Path, tmp_path: Path
) -> None:
    theirs = quantize_by_onnxruntime(place / "source.onnx", tmp_path / "theirs.onnx", "QDQ")
    command = ("validate", theirs, "--reference", reference, "--data", place / "data")
    result = edgecnn(*command, "--stages")
    assert result.code == 0, result.said
    assert f"reference.npz -> {theirs.name}" in result.out
    edgecnn(*command, "--tta", "ten-crop").refused("resize 12 = crop 12 leaves no corners")


def test_importing_quantized_operators_names_the_way_to_measure_it(
    edgecnn: Command, place: Path, reference: Path, tmp_path: Path
) -> None:
    theirs = quantize_by_onnxruntime(place / "source.onnx", tmp_path / "theirs.onnx", "QOperator")
    result = edgecnn("import", theirs, "--preprocess", place / "p.json", "-o", tmp_path / "x.onnx")
    result.refused("quantized in operators of its own", f"edgecnn validate {theirs} --reference")


def test_without_a_reference_that_knows_it_the_preprocessing_stays_unknown(
    edgecnn: Command, place: Path, tmp_path: Path
) -> None:
    theirs = quantize_by_onnxruntime(place / "source.onnx", tmp_path / "theirs.onnx", "QDQ")
    command = ("validate", theirs, "--reference", place / "source.onnx", "--data", place / "data")
    edgecnn(*command).refused("how its images are preprocessed is not known", "--preprocess")
