"""The placements inserted and run: what was asked is there, the logits hold, the integer kernels are real."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgecnn.backends.ort.session import OrtSession
from edgecnn.errors import BackendError, GraphError
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.lint import lint
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.qdq.verify import assert_placed, count_integer_kernels, measure_int8_share_pct
from edgecnn.graph.simplify import simplify_graph
from edgecnn.results.engine import Scheme
from edgecnn.targets import Target
from tests.fakes.graphs import build
from tests.fakes.int8 import RESIDUAL
from tests.fakes.noise import images
from tests.fakes.placements import GRAPHS

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

ORIN = Target(name="orin", kind="gpu", backend="trt", description="", source="", tensorrt_min="10.3")


def quantised(text: str, scheme: Scheme) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The prepared float graph and its INT8 graph."""
    model = simplify_graph(build(text))
    ranges = collect_from_model(model, "", images(32))
    return model, quantize_int8(model, ranges, scheme, method="minmax", around="fp32").model


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": batch})[0])


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
def test_every_fixture_inserted_and_run(name: str, scheme: Scheme, tmp_path: Path) -> None:
    model = simplify_graph(build(GRAPHS[name]))
    quantized = quantize_int8(model, collect_from_model(model, "", images(32)), scheme, method="minmax", around="fp32")
    made = quantized.model
    assert_placed(made, quantized.placement)
    assert measure_int8_share_pct(made) == 100.0
    data = images(8, seed=9)
    batch = np.stack([data.tensor(i) for i in range(8)])
    exact, found = run(model, batch), run(made, batch)
    assert 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()) > 25
    np.testing.assert_allclose(run(made, batch[:1]), found[:1], atol=1e-5)
    onnx.save(made, tmp_path / "q.onnx")
    weighted = sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in model.graph.node)
    if scheme == "ort-cpu":
        float_at_the_end = model.graph.node[-1].op_type == "Conv"  # its logits are not quantised
        assert count_integer_kernels(tmp_path / "q.onnx") == (weighted - float_at_the_end, weighted)
    else:
        assert lint(made, ORIN) == []


def test_the_kernels_around_the_weighted_ones_are_integer_too(tmp_path: Path) -> None:
    """What keeps a graph in 8 bits between its convolutions: else each pair costs two conversions."""
    expected = {
        "residual, identity and projection, then the classifier": {"QLinearAdd": 2, "Add": 1, "Relu": 1},
        "fire, then a pool": {"QLinearConcat": 1},
        "inception with pooling branches": {"QLinearConcat": 2, "QLinearAveragePool": 1},
        "inverted residual": {"QLinearAdd": 1, "Clip": 0},
        "squeeze and excite in a residual": {"QLinearMul": 1, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1},
        "silu": {"QLinearSigmoid": 1, "QLinearMul": 1},
        "channel shuffle": {"QLinearConcat": 2, "Relu": 0},
    }
    for name, counts in expected.items():
        _, made = quantised(GRAPHS[name], "ort-cpu")
        kinds = optimised_operators(made, tmp_path)
        assert {k: kinds.count(k) for k in counts} == counts, name


def optimised_operators(model: onnx.ModelProto, folder: Path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(folder / "optimised.onnx").graph.node]


def drop_pair(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.name == "c2/Conv").input[0] = "p1"


def pair_on_another_tensor(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "p1").input[0] = "r1"


def pair_unasked(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.name == "r2/Relu").input[0] = "p1_dequantized"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop_pair, "'c2/Conv': input 0 should read a Q/DQ pair on 'p1', found none"),
        (pair_on_another_tensor, "'c2/Conv': input 0 should read a Q/DQ pair on 'p1', found r1"),
        (pair_unasked, "'r2/Relu': input 0 is quantized unasked"),
    ],
)
def test_a_graph_that_is_not_as_placed_is_refused(damage, says: str) -> None:  # type: ignore[no-untyped-def]
    model, made = quantised(GRAPHS["plain"], "tensorrt")
    assert_placed(made, place(model, "tensorrt"))
    damage(made)
    with pytest.raises(GraphError, match=says.replace("(", r"\(")):
        assert_placed(made, place(model, "tensorrt"))


def test_one_group_has_one_scale() -> None:
    model, made = quantised(GRAPHS["fire, then a pool"], "tensorrt")
    scale = next(t for t in made.graph.initializer if t.name == "e3r_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 2, scale.name))
    with pytest.raises(GraphError, match="the scale of input 1 differs from the one at 'cat/Concat'"):
        assert_placed(made, place(model, "tensorrt"))


def test_a_group_of_which_one_reader_stays_float32_has_one_scale() -> None:
    """The Add passes FP16's limit and reads its input through a pair of its own, with a float32 scale."""
    model = simplify_graph(build(RESIDUAL))
    ranges = collect_from_model(model, "", images(32, (4, 8, 8)))
    sum_ = ranges.tensors["r3"]
    beyond = dataclasses.replace(sum_, channel_high=np.full_like(sum_.channel_high, 60000.0))
    ranges = dataclasses.replace(ranges, tensors={**ranges.tensors, "r3": beyond})
    made = quantize_int8(model, ranges, "tensorrt", method="minmax", around="fp16")
    types = {t.data_type for t in made.model.graph.initializer if t.name.startswith("r1") and "scale" in t.name}
    assert types == {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert_placed(made.model, made.placement)


def test_the_share_counts_multiply_adds_not_nodes() -> None:
    _, made = quantised("a = Conv(input, out=16, k=3)\nlogits = Conv(a, out=1)", "tensorrt")
    first = next(n for n in made.graph.node if n.name == "a/Conv")
    first.input[0] = "input"
    assert measure_int8_share_pct(made) == pytest.approx(100 * 16 / (16 + 16 * 4 * 9))


def test_a_float_graph_has_no_integer_kernels(tmp_path: Path) -> None:
    onnx.save(build(GRAPHS["plain"]), tmp_path / "f.onnx")
    assert count_integer_kernels(tmp_path / "f.onnx") == (0, 3)
    (tmp_path / "broken.onnx").write_bytes((tmp_path / "f.onnx").read_bytes()[:100])
    with pytest.raises(BackendError, match="ONNX Runtime cannot load it"):
        count_integer_kernels(tmp_path / "broken.onnx")


def test_a_simulated_session_keeps_float_biases_with_fp16_scales(tmp_path: Path) -> None:
    """ONNX Runtime would round them to int32 in steps of an FP16 product, which underflows for small weights."""
    model = build("c = Conv(input, out=8, k=3)\nr = Relu(c)\nd = Conv(r, out=8, k=3)\nlogits = Conv(d)")
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.02), tensor.name))
        elif tensor.name.endswith("bias"):
            bias = np.linspace(0.1, 0.2, tensor.dims[0], dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    model = simplify_graph(model)
    ranges = collect_from_model(model, "", images(32))
    made = quantize_int8(model, ranges, "tensorrt", method="minmax", around="fp16").model
    onnx.save(made, tmp_path / "q.onnx")
    data = images(4, seed=9)
    batch = np.stack([data.tensor(i) for i in range(4)])
    exact = run(model, batch)
    with OrtSession(tmp_path / "q.onnx", 1, simulated=True) as session:
        found = session.run(batch)
    assert 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()) > 35
