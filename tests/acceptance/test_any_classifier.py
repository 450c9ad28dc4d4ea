"""Graphs of other tools on the way that users take: import, calibrate, quantize, auto, reference, validate."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.acceptance.channel_pictures import Result, sidecar, write_json
from tests.fakes.foreign import CLASSES, SIDE, N, classifier, frozen_at_four, integers, weights

pytestmark = pytest.mark.torch

Command = Callable[..., Result]


def put(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, str(path))
    return path


def put_images(path: Path, shape: tuple[int, int, int] = (3, SIDE, SIDE), count: int = 22) -> Path:
    rng = np.random.default_rng(1)
    images = rng.standard_normal((count, *shape)) + rng.standard_normal((count, shape[0], 1, 1))
    np.savez(path, input=images.astype(np.float32), label=np.arange(count) % CLASSES)
    return path


def walk(edgecnn: Command, graph: Path, data: Path, folder: Path) -> list[dict[str, Any]]:
    """Every step behind import; the accuracies of what came out."""
    steps: list[tuple[object, ...]] = [
        ("calibrate", graph, "--data", data, "-o", folder / "r.calib.json"),
        ("quantize", graph, "--precision", "fp16", "--ranges", folder / "r.calib.json", "-o", folder / "fp16.onnx"),
        ("reference", graph, "--data", data, "-o", folder / "ref.npz"),
    ]
    made = ["fp16"]
    for scheme in ("tensorrt", "ort-cpu"):
        for method in ("minmax", "auto"):
            made.append(f"{scheme}-{method}")
            out = ["--scheme", scheme, "--method", method, "--data", data, "-o", folder / f"{made[-1]}.onnx"]
            steps.append(("quantize", graph, "--precision", "int8", "--ranges", folder / "r.calib.json", *out))
    for name in made:
        out = ["--data", data, "-o", folder / f"{name}.acc.json"]
        steps.append(("validate", folder / f"{name}.onnx", "--reference", folder / "ref.npz", *out))
    for step in steps:
        result = edgecnn(*step)
        assert result.code == 0, f"{step}: {result.said}"
    return [json.loads((folder / f"{name}.acc.json").read_text()) for name in made]


@pytest.mark.parametrize(
    ("channels", "crop"), [(1, [48, 192]), (4, [12, 12]), (3, [24, 96])], ids=["gray-48x192", "rgba", "rectangle"]
)
def test_channels_and_rectangles_go_through_all_steps(
    edgecnn: Command, tmp_path: Path, channels: int, crop: list[int]
) -> None:
    """Pictures on disk, read as the preprocessing says."""
    rng = np.random.default_rng(2)
    for k in range(20):
        folder = tmp_path / "pictures" / f"class{k % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        shades = rng.integers(0, 256, channels) // 2 + rng.integers(0, 128, (crop[0] + 4, crop[1] + 4, channels))
        Image.fromarray(shades.astype(np.uint8).squeeze()).save(folder / f"{k}.png")
    preprocessing = {
        "resize": min(crop), "crop": crop, "mean": [0.5] * channels, "std": [0.25] * channels, "channels": channels,
    }  # fmt: skip
    model = classifier([N("Relu", ["c"], ["m"])], given=("n", channels, *crop), w1=weights(8, channels, 3, 3))
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class{k}" for k in range(CLASSES)))
    pre = write_json(tmp_path / "pre.json", preprocessing)
    source, graph = put(tmp_path / "theirs.onnx", model), tmp_path / "ours.onnx"
    result = edgecnn("import", source, "--preprocess", pre, "--labels", labels, "-o", graph)
    assert result.code == 0, result.said
    assert sidecar(graph)["facts"]["input_shape"] == [channels, *crop]
    for accuracy in walk(edgecnn, graph, tmp_path / "pictures", tmp_path):
        assert accuracy["n"] == 20
        assert accuracy["sqnr_db"] > 20


def test_a_batch_frozen_at_four_goes_through_all_steps(edgecnn: Command, tmp_path: Path) -> None:
    source, graph = put(tmp_path / "theirs.onnx", frozen_at_four()), tmp_path / "ours.onnx"
    assert edgecnn("import", source, "-o", graph).code == 0
    for accuracy in walk(edgecnn, graph, put_images(tmp_path / "d.npz"), tmp_path):
        assert accuracy["n"] == 22
        assert accuracy["sqnr_db"] > 20
    engine, int8 = tmp_path / "engine.onnx", tmp_path / "ort-cpu-minmax.onnx"
    edgecnn("build", int8, "--target", "cpu", "--max-batch", 8, "-o", engine).refused("frozen at 4", "--max-batch 4")
    for asked in ((), ("--max-batch", 4)):
        result = edgecnn("build", int8, "--target", "cpu", *asked, "-o", engine)
        assert result.code == 0, result.said


# --- a graph that is not quite equal -------------------------------------------------------------------------------


def drifting(by: float) -> onnx.ModelProto:
    """Another result at another batch, as kernels chosen by it give: `by` more for each image beside the first."""
    end = [
        N("Gemm", ["f", "fc", "fb"], ["z"], transB=1),
        N("Shape", ["x"], ["s"]),
        N("Gather", ["s", "zero"], ["count"], axis=0),
        N("Sub", ["count", "one"], ["others"]),
        N("Cast", ["others"], ["number"], to=TensorProto.FLOAT),
        N("Mul", ["number", "by"], ["drift"]),
        N("Add", ["z", "drift"], ["y"]),
    ]
    constants: dict[str, Any] = {"zero": integers(0), "one": integers(1), "by": np.float32(by)}
    return classifier([N("Relu", ["c"], ["m"])], end=end, **constants)


def test_a_miss_of_parity_says_how_large_it_is_and_its_hint_takes_it(edgecnn: Command, tmp_path: Path) -> None:
    source, graph = put(tmp_path / "theirs.onnx", drifting(1.5e-4)), tmp_path / "ours.onnx"
    result = edgecnn("import", source, "-o", graph)
    result.refused("of the largest logit", "allowed are 0.0001")
    assert not graph.exists()
    words = result.err.split("--max-difference ")[1].split()
    result = edgecnn("import", source, "--max-difference", words[0], "-o", graph)
    assert result.code == 0, result.said
    assert 1e-4 < sidecar(graph)["facts"]["max_difference"] <= float(words[0])
    assert sidecar(graph)["facts"]["batch"] is None


def test_another_result_is_no_matter_of_rounding(edgecnn: Command, tmp_path: Path) -> None:
    source = put(tmp_path / "theirs.onnx", drifting(0.5))
    result = edgecnn("import", source, "--max-difference", 0.001, "-o", tmp_path / "ours.onnx")
    assert result.code == 0, result.said
    assert "frozen at 1" in result.said


# --- graphs that came quantized ------------------------------------------------------------------------------------


def fake_quantized(*, axis: int = 0, dtype: Any = np.int8, zero: int = 0) -> onnx.ModelProto:
    """As quantization-aware training in PyTorch is exported: scales in Constant nodes, weights in float behind Q/DQ."""
    model = classifier([N("Relu", ["c"], ["m"])])
    held = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []

    def pair(name: str, scale: Any, code: Any, **attributes: Any) -> str:
        for part, value in (("s", np.asarray(scale, np.float32)), ("z", np.full(np.shape(scale), code, dtype))):
            nodes.append(N("Constant", [], [f"{name}_{part}"], value=numpy_helper.from_array(value)))
        given = [f"{name}_s", f"{name}_z"]
        nodes.append(N("QuantizeLinear", [name, *given], [f"{name}_q"], **attributes))
        nodes.append(N("DequantizeLinear", [f"{name}_q", *given], [f"{name}_dq"], **attributes))
        return f"{name}_dq"

    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            weight = held[node.input[1]]
            scales = np.abs(weight).reshape(len(weight), -1).max(1) / 127
            first = pair(node.input[0], 0.05, zero)
            node.input[:] = [first, pair(node.input[1], scales, 0, axis=axis), *node.input[2:]]
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def test_a_graph_of_training_with_pairs_is_taken_and_judged(edgecnn: Command, tmp_path: Path) -> None:
    graph, data = tmp_path / "ours.onnx", put_images(tmp_path / "d.npz")
    result = edgecnn("import", put(tmp_path / "theirs.onnx", fake_quantized()), "-o", graph)
    assert result.code == 0, result.said
    assert "the graph came quantized" in result.err
    assert "its float parts are FP32" in result.err
    made = sidecar(graph)
    assert (made["precision_requested"], made["precision_obtained"], made["scheme"]) == ("int8", "int8", "tensorrt")
    assert made["facts"]["int8_share_pct"] == 100
    assert edgecnn("check", graph).code == 0

    plain = tmp_path / "plain.onnx"
    assert edgecnn("import", put(tmp_path / "f.onnx", classifier([N("Relu", ["c"], ["m"])])), "-o", plain).code == 0
    assert edgecnn("reference", plain, "--data", data, "-o", tmp_path / "ref.npz").code == 0
    out = ("--reference", tmp_path / "ref.npz", "--data", data, "-o", tmp_path / "acc.json")
    result = edgecnn("validate", graph, *out)
    assert result.code == 0, result.said
    accuracy = json.loads((tmp_path / "acc.json").read_text())
    assert accuracy["scheme"] == "tensorrt"  # which a processor simulates
    assert 15 < accuracy["sqnr_db"] < 60
    for step in (
        ("calibrate", graph, "--data", data, "-o", tmp_path / "r.calib.json"),
        ("quantize", graph, "--precision", "int8", "--data", data, "-o", tmp_path / "again.onnx"),
    ):
        edgecnn(*step).refused("already quantized")


def test_fp16_around_pairs_is_kept_without_a_warning(edgecnn: Command, tmp_path: Path) -> None:
    plain, data = tmp_path / "plain.onnx", put_images(tmp_path / "d.npz")
    assert edgecnn("import", put(tmp_path / "f.onnx", classifier([N("Relu", ["c"], ["m"])])), "-o", plain).code == 0
    theirs, graph = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    out = ("--method", "minmax", "--data", data, "-o", theirs)
    assert edgecnn("quantize", plain, "--precision", "int8", *out).code == 0
    Path(f"{theirs}.json").unlink()
    result = edgecnn("import", theirs, "-o", graph)
    assert result.code == 0, result.said
    assert "FP32" not in result.err
    kinds = {i.data_type for i in onnx.load(graph).graph.initializer}
    assert TensorProto.FLOAT16 in kinds


def test_asymmetric_pairs_are_for_a_processor(edgecnn: Command, tmp_path: Path) -> None:
    graph = tmp_path / "ours.onnx"
    source = put(tmp_path / "theirs.onnx", fake_quantized(zero=3))
    assert edgecnn("import", source, "-o", graph).code == 0
    assert sidecar(graph)["scheme"] == "ort-cpu"


def in_integers() -> onnx.ModelProto:
    return classifier(
        [N("DynamicQuantizeLinear", ["c"], ["a", "b", "d"]), N("DequantizeLinear", ["a", "b", "d"], ["m"])]
    )


@pytest.mark.parametrize(
    ("make", "named"), [(in_integers, "DynamicQuantizeLinear"), (lambda: fake_quantized(dtype=np.int16), "int16")]
)
def test_other_quantized_graphs_are_refused_for_what_they_are(
    edgecnn: Command, tmp_path: Path, make: Callable[[], onnx.ModelProto], named: str
) -> None:
    model = make()
    if named == "int16":
        model.opset_import[0].version, model.ir_version = 21, 10
    source = put(tmp_path / "theirs.onnx", model)
    edgecnn("import", source, "-o", tmp_path / "ours.onnx").refused(named, "float32 graph")


# --- onnxslim ------------------------------------------------------------------------------------------------------


def sequenced() -> onnx.ModelProto:
    """Refused: a Loop, which a simplifier may unroll."""
    body = helper.make_graph(
        [N("Identity", ["go"], ["on"]), N("Add", ["v", "step"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    body.initializer.append(numpy_helper.from_array(np.float32(0.5), "step"))
    middle = [N("Loop", ["times", "true", "c"], ["m"], body=body)]
    return classifier(middle, times=np.int64(2), true=np.bool_(True))


def unrolled(model: onnx.ModelProto) -> onnx.ModelProto:
    """What a simplifier would make of `sequenced`."""
    loop = next(n for n in model.graph.node if n.op_type == "Loop")
    loop.CopyFrom(N("Add", ["c", "whole"], ["m"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "whole"))
    return model


def test_what_would_be_refused_is_simplified_first(
    edgecnn: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    simplifier = SimpleNamespace(__version__="0.0", slim=lambda model: asked.append(1) or unrolled(model))
    monkeypatch.setitem(sys.modules, "onnxslim", simplifier)
    source, graph = put(tmp_path / "theirs.onnx", sequenced()), tmp_path / "ours.onnx"
    edgecnn("import", source, "-o", graph).refused("Loop holds a graph of its own")
    assert not asked
    result = edgecnn("import", source, "--simplify", "-o", graph)
    assert result.code == 0, result.said
    assert "simplified by onnxslim 0.0" in result.said
    fine = put(tmp_path / "fine.onnx", classifier([N("Relu", ["c"], ["m"])]))
    assert edgecnn("import", fine, "--simplify", "-o", tmp_path / "fine.out.onnx").code == 0
    assert asked == [1]


def test_a_simplifier_that_makes_another_graph_is_found_out(
    edgecnn: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        made = unrolled(model)
        made.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.float32(3), "whole"))
        return made

    monkeypatch.setitem(sys.modules, "onnxslim", SimpleNamespace(__version__="0.0", slim=wrong))
    source = put(tmp_path / "theirs.onnx", sequenced())
    result = edgecnn("import", source, "--simplify", "-o", tmp_path / "ours.onnx")
    result.refused("Loop holds a graph of its own", "simplified by onnxslim it is refused too")


def test_without_onnxslim_its_extra_is_named(edgecnn: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    source = put(tmp_path / "theirs.onnx", sequenced())
    edgecnn("import", source, "--simplify", "-o", tmp_path / "ours.onnx").refused("'onnxslim'", "edgecnn[simplify]")
