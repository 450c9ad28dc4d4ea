"""INT8 graphs: the numbers behind the pairs, what is in the file, and what is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgecnn.artifact.sidecar import Sidecar, sha256_of, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.data.open import open_dataset
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.collect import collect_from_model, collect_ranges
from edgecnn.graph.calibration.file import write_ranges
from edgecnn.graph.calibration.histogram import Ranges
from edgecnn.graph.lint import lint
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.qdq.verify import measure_int8_share_pct
from edgecnn.graph.simplify import simplify_graph
from edgecnn.quantization import QuantParams, quantize_weights, round_params, uint8_params
from edgecnn.steps.quantize import quantize
from edgecnn.targets import find_target
from tests.fakes.graphs import build
from tests.fakes.noise import NET, images

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.torch

METHODS = ("minmax", "percentile", "entropy", "mse")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, Ranges, np.ndarray]:
    path = tmp_path_factory.mktemp("case") / "net.onnx"
    onnx.save(build(NET), path)
    data = images(64)
    batch = np.stack([data.tensor(i) for i in range(64)])
    return onnx.load(path), collect_ranges(path, data), batch


def logits(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"input": batch})
    return np.asarray(made)


def sqnr_db(exact: np.ndarray, made: np.ndarray) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - made).sum()))


@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_logits(case: tuple, scheme: Any, method: str) -> None:
    model, ranges, batch = case
    quantized = quantize_int8(model, ranges, scheme, method=method, around="fp32")
    made, report = quantized.model, quantized.report
    onnx.checker.check_model(made)
    assert sqnr_db(logits(model, batch), logits(made, batch)) > 27
    assert report.int8_share_pct == 100.0
    if scheme == "ort-cpu":
        assert (report.integer_kernels, report.weighted_nodes) == (3, 3)


@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
def test_a_pooling_that_onnx_has_as_a_matrix_alone_is_a_weighted_layer(tmp_path: Path, scheme: Any) -> None:
    """As `edgecnn export` writes adaptive pooling with windows of unequal size."""
    pytest.importorskip("torch")
    from torch import nn

    from tests.fakes.exported import exported

    body = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(8 * 49, 4)]
    model, _ = exported(nn.Sequential(*body), tmp_path)
    batch = np.random.default_rng(0).normal(size=(32, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input=batch)
    ranges = collect_ranges(tmp_path / "net.onnx", open_dataset(str(tmp_path / "images.npz"), None, "train"))
    quantized = quantize_int8(model, ranges, scheme, method="minmax", around="fp32")
    made, report = quantized.model, quantized.report
    assert sqnr_db(logits(model, batch), logits(made, batch)) > 27
    assert report.int8_share_pct == 100.0


def test_a_channel_that_is_all_bias_keeps_it(tmp_path: Path) -> None:
    """Weight decay leaves channels with weights of 1e-12; bias / (input scale x weight scale) is not an int32 then."""
    model = build(NET)
    arrays = {i.name: i for i in model.graph.initializer}
    weight, bias = numpy_helper.to_array(arrays["c1.weight"]).copy(), numpy_helper.to_array(arrays["c1.bias"]).copy()
    weight[0] *= 1e-12
    bias[0] = 2.0
    arrays["c1.weight"].CopyFrom(numpy_helper.from_array(weight, "c1.weight"))
    arrays["c1.bias"].CopyFrom(numpy_helper.from_array(bias, "c1.bias"))
    onnx.save(model, tmp_path / "net.onnx")
    data = images(32)
    batch = np.stack([data.tensor(i) for i in range(32)])
    made = quantize_int8(model, collect_ranges(tmp_path / "net.onnx", data), "ort-cpu", method="mse").model
    assert sqnr_db(logits(model, batch), logits(made, batch)) > 27


def test_the_same_input_gives_the_same_bytes(case: tuple) -> None:
    model, ranges, _ = case
    first, second = (quantize_int8(model, ranges, "tensorrt", method="mse", around="fp32").model for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_tensorrt_pairs_are_symmetric_int8_and_fp16_scales_are_normal(case: tuple) -> None:
    model, ranges, batch = case
    quantized = quantize_int8(model, ranges, "tensorrt", method="mse", around="fp16")
    made, report = quantized.model, quantized.report
    arrays = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    pairs = [n for n in made.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 6
    for node in pairs:
        assert arrays[node.input[2]].dtype == np.int8
        assert not arrays[node.input[2]].any()
        assert arrays[node.input[1]].dtype == np.float16
        assert (arrays[node.input[1]] >= 2.0**-14).all()
    assert report.kept_float32 == ()
    assert sqnr_db(logits(model, batch), logits(made, batch)) > 27


def test_weights_stay_right_when_their_scale_is_not_an_fp16_number(case: tuple) -> None:
    """The codes belong to the rounded scale: with the exact one they would be off by up to 5e-4 of the weight."""
    model, ranges, _ = case
    made = quantize_int8(model, ranges, "tensorrt", method="minmax", around="fp16").model
    arrays = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    exact = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}["c2.weight"]
    pair = next(n for n in made.graph.node if n.input[0] == "c2.weight")
    scale = arrays[pair.input[1]].astype(np.float32).reshape(-1, 1, 1, 1)
    assert np.abs(arrays["c2.weight"] * scale - exact).max() <= 0.5001 * scale.max()


def test_a_pair_does_what_onnx_says() -> None:
    values = np.linspace(-3, 3, 1001, dtype=np.float32)
    assert QuantParams(0.01).fake_quantize(values).max() == np.float32(1.27)
    assert QuantParams(0.01).fake_quantize(values).min() == np.float32(-1.28)
    leaning = uint8_params(-1.0, 2.0)
    assert leaning.bounds == pytest.approx((-1.0, 2.0), abs=0.012)
    assert leaning.fake_quantize(np.zeros(1, np.float32))[0] == 0.0, "zero is exact, or padding is wrong"


def test_a_dead_channel_gets_a_harmless_scale_and_search_never_hurts() -> None:
    weight = np.random.default_rng(0).standard_t(4, (8, 256, 3, 3)).astype(np.float32)
    weight[2] = 0.0
    plain, searched = (quantize_weights(weight, 0, False, search=s) for s in (False, True))
    assert plain.scale[2] == pytest.approx(1 / 127)
    assert np.abs(plain.dequantize() - weight).max() <= plain.scale.max() / 2 * 1.0001
    error = [np.square(c.dequantize() - weight).sum((1, 2, 3)) for c in (plain, searched)]
    assert (error[1] <= error[0] * 1.000001).all()
    assert error[1].sum() < 0.99 * error[0].sum()


@pytest.mark.parametrize("shape", [(3, 200_000), (70, 4096), (5000, 9), (1, 1)])
def test_scales_searched_in_pieces_are_those_of_the_whole(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).standard_t(4, shape).astype(np.float32)
    made = quantize_weights(weight, 0, False, search=True)
    tried = np.abs(weight).max(axis=1) / 127 * np.linspace(1.0, 0.7, 31, dtype=np.float32)[:, None]
    errors = [np.square(weight - np.clip(np.rint(weight / t), -127, 127) * t).sum(1) for t in tried[:, :, None]]
    np.testing.assert_array_equal(made.scale, tried[np.argmin(errors, axis=0), np.arange(len(weight))])


def test_a_large_weight_is_quantised_in_little_more_than_its_own_memory() -> None:
    weight = np.random.default_rng(0).standard_normal((1024, 4096), np.float32)
    tracemalloc.start()
    quantize_weights(weight, 0, True, search=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * weight.nbytes


@pytest.mark.parametrize(
    ("scale", "held"),
    [(1 / 3, float(np.float16(1 / 3))), (1e-9, float(np.float32(1e-9))), (6e-5, float(np.float32(6e-5))), (1e4, 1e4)],
)
def test_a_scale_is_a_normal_fp16_number_or_not_rounded_to_one(scale: float, held: float) -> None:
    assert round_params(QuantParams(scale), True).scale == held


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize(("size", "dead", "rounded"), [(1.0, 1e-12, True), (1.0, 1e-3, True), (3e-4, 0.1, False)])
def test_a_dead_channel_does_not_cost_the_others_their_fp16_scales(
    size: float, dead: float, rounded: bool, search: bool
) -> None:
    """A channel whose weights are lost in the coarsest step is given the smallest normal scale; others keep theirs."""
    weight = np.random.default_rng(0).normal(0, size, (8, 16, 3, 3)).astype(np.float32)
    weight[3] *= dead
    shares = np.where(np.arange(8) == 3, np.inf, 1 / 32)
    made = quantize_weights(weight, 0, True, search=search, tolerated=shares)
    assert (made.scale.astype(np.float16) == made.scale).all() == rounded
    assert (made.scale >= 2.0**-14).all() == rounded
    lost = np.square(made.dequantize() - weight).sum((1, 2, 3))
    exact = quantize_weights(weight, 0, False, search=search)
    assert lost[3] < 0.02 * lost.max() or lost[3] <= 1.001 * np.square(exact.dequantize() - weight).sum((1, 2, 3))[3]


@pytest.mark.parametrize(
    ("size", "tolerated", "rounded"),
    [
        (1e-4, 1 / 32, False),
        (1e-4, 0.5, True),  # a third of its weights is lost
        (1e-5, 0.5, False),  # all of them are
        (1e-5, 1.0, True),
        (1e-12, np.inf, True),
        (3e-3, 1 / 32, True),  # a step twice as coarse
    ],
)
@pytest.mark.parametrize("search", [False, True])
def test_a_channel_that_a_raised_scale_would_change_keeps_its_own(
    size: float, tolerated: float, rounded: bool, search: bool
) -> None:
    weight = np.random.default_rng(0).normal(0, 1, (8, 16, 3, 3)).astype(np.float32)
    weight[3] *= size
    shares = np.where(np.arange(8) == 3, tolerated, 0.0)
    made = quantize_weights(weight, 0, True, search=search, tolerated=shares)
    assert made.in_fp16 == rounded
    assert (made.scale >= 2.0**-14).all() == rounded
    if not rounded:
        assert np.abs(made.dequantize() - weight)[3].sum() < np.abs(weight[3]).sum() / 32


@pytest.mark.parametrize(
    ("bias", "text", "kept"),
    [
        (0.0, "c = Conv(input)\nr = Relu(c)\nm = Mul(r, by=2.0)\nlogits = Conv(m)", True),
        (1.0, "c = Conv(input)\nr = Relu(c)\nm = Mul(r, by=2.0)\nlogits = Conv(m)", False),  # it is its bias
        (-1.0, "c = Conv(input)\nr = Relu(c)\nm = Mul(r, by=2.0)\nlogits = Conv(m)", False),  # dead
        (0.0, "c = Conv(input)\nr = Relu(c)\nlogits = Conv(r)", False),  # 0 in INT8 beside the other channels
        (0.0, "c = Conv(input)\na = Add(c, input)\nm = Mul(a, by=2.0)\nlogits = Conv(m)", False),  # lost in the sum
        (0.0, "c = Conv(input)\nm = MaxPool(c, kernel_shape=[2, 2])\ns = Sigmoid(m)\nlogits = Conv(s)", True),
    ],
)
def test_a_small_channel_keeps_a_layer_in_float32_where_it_counts_behind(bias: float, text: str, kept: bool) -> None:
    model = simplify_graph(build(text))
    for tensor in model.graph.initializer:
        if tensor.name in ("c.weight", "c.bias"):
            array = numpy_helper.to_array(tensor).copy()
            array[1] = 1e-5 * array[1] if tensor.name == "c.weight" else bias
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    ranges = collect_from_model(model, "", images(16))
    report = quantize_int8(model, ranges, "tensorrt", method="mse").report
    assert ("c.weight_scale" in report.kept_float32) == kept


def test_a_layer_of_tiny_weights_or_large_logits_stays_float32_around_its_int8(tmp_path: Path) -> None:
    """As good as with FP32 around, in true FP16 tensors: with FP16 scales the one is 0, the other infinite."""
    model = build(NET)
    for tensor in model.graph.initializer:
        factor = {"c2.weight": 1e-7, "c2.bias": 1e-7, "logits.weight": 1e6, "logits.bias": 1e6}.get(tensor.name, 1.0)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    onnx.save(model, tmp_path / "net.onnx")
    data = images(64)
    batch = np.stack([data.tensor(i) for i in range(16)])
    ranges = collect_ranges(tmp_path / "net.onnx", data)
    full = quantize_int8(model, ranges, "tensorrt", method="mse", around="fp32").model
    quantized = quantize_int8(model, ranges, "tensorrt", method="mse", around="fp16")
    made, report = quantized.model, quantized.report
    exact = logits(model, batch)
    found = np.asarray(ReferenceEvaluator(made).run(None, {"input": batch})[0])
    assert np.isfinite(found).all()
    assert sqnr_db(exact, found) > sqnr_db(exact, logits(full, batch)) - 1
    assert {"c2.weight_scale", "logits.weight_scale", "logits"} <= set(report.kept_float32)
    assert measure_int8_share_pct(made) == 100.0
    source, output = tmp_path / "net.onnx", tmp_path / "q.onnx"
    written = quantize(source, output, precision="int8", method="mse", around="fp16", dataset=data)
    assert written.sidecar.facts["kept_float32"] == list(report.kept_float32)
    for target, version in (("orin-nano", "10.3"), ("gpu", "10.3"), ("gpu", "11.4")):
        assert lint(made, find_target(target), version) == []


def test_ranges_that_lack_a_tensor_are_refused(case: tuple) -> None:
    model, ranges, _ = case
    lacking = Ranges("", "", "", 1, {n: s for n, s in ranges.tensors.items() if n != "p"})
    with pytest.raises(GraphError, match="'p' has no calibration range"):
        quantize_int8(model, lacking, "tensorrt", method="mse")


def test_a_tensor_that_is_constant_is_named(tmp_path: Path) -> None:
    model = build(NET)
    bias = next(i for i in model.graph.initializer if i.name == "c1.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(6, -100, np.float32), bias.name))
    onnx.save(model, tmp_path / "dead.onnx")
    ranges = collect_ranges(tmp_path / "dead.onnx", images(20))
    with pytest.raises(GraphError, match="tensor 'p' was 0 everywhere|tensor 'r1' was 0 everywhere"):
        quantize_int8(model, ranges, "tensorrt", method="mse")


def test_a_quantised_graph_is_refused(case: tuple) -> None:
    model, ranges, _ = case
    made = quantize_int8(model, ranges, "tensorrt", method="mse", around="fp32").model
    with pytest.raises(GraphError, match="already quantized"):
        quantize_int8(made, ranges, "tensorrt", method="mse")


def test_the_sidecar_says_what_was_obtained(case: tuple, tmp_path: Path) -> None:
    source, known, path = tmp_path / "net.onnx", tmp_path / "net.calib.json", tmp_path / "net.int8.onnx"
    write_artifact(source, lambda p: onnx.save(case[0], p), Sidecar(kind="graph", labels=["a", "b", "c"]))
    write_ranges(collect_ranges(source, images(64)), known, Sidecar(kind="ranges", fields={"data.calibration": "some"}))
    quantize(source, path, precision="int8", method="mse", scheme="ort-cpu", ranges=known)
    sidecar = verified_sidecar(path)
    assert (sidecar.precision_requested, sidecar.precision_obtained) == ("int8", "int8")
    assert (sidecar.kind, sidecar.scheme) == ("graph", "ort-cpu")
    assert sidecar.facts["integer_kernels"] == sidecar.facts["weighted_nodes"] == 3
    assert sidecar.facts["int8_share_pct"] == 100.0
    assert sidecar.parents == {"net.onnx": sha256_of(source), "net.calib.json": sha256_of(known)}
    made_with = {
        "quantize.method": "mse",
        "quantize.around": "fp16",
        "quantize.exclude": None,
        "quantize.global_pool": None,
    }
    assert sidecar.fields == {"data.calibration": "some", **made_with}
    assert sidecar.labels == ["a", "b", "c"]
