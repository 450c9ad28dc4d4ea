"""FP16 graphs: what is typed how, what stays float32 and is named, and that the numbers hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgecnn.artifact.sidecar import Sidecar, verified_sidecar
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.collect import collect_from_model, collect_ranges
from edgecnn.graph.calibration.file import write_ranges
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.simplify import simplify_graph
from edgecnn.steps.quantize import quantize
from tests.fakes.graphs import build
from tests.fakes.noise import images as noise

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

RESIDUAL = """
    c0 = Conv(input, out=8, k=3)
    r0 = Relu(c0)
    c1 = Conv(r0, k=3)
    a1 = Add(c1, r0)
    r1 = Relu(a1)
    gap = GlobalAveragePool(r1)
    f = Flatten(gap)
    logits = Gemm(f)
"""


@dataclass
class Seen:
    largest: float
    low: float = -np.inf  # a tensor may hold any negative value


@dataclass
class Ranges:
    tensors: dict[str, Seen] = field(default_factory=dict)


def ranges(**largest: float) -> Ranges:
    return Ranges({name: Seen(value) for name, value in largest.items()})


def types_of(model: onnx.ModelProto) -> dict[str, str]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    infos = [*graph.input, *graph.value_info, *graph.output]
    kinds = {i.name: i.type.tensor_type.elem_type for i in infos} | {t.name: t.data_type for t in graph.initializer}
    return {name: TensorProto.DataType.Name(kind).lower() for name, kind in kinds.items()}


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def run_in_fp16(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """As the types say: ONNX Runtime's CPU provider computes FP16 graphs in float32 and hides an overflow."""
    return ReferenceEvaluator(model).run(None, {"input": images})[0]


def images(n: int = 2, size: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (n, 4, size, size)).astype(np.float32)


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(divide="ignore"):  # infinite where both are the same
        return float(10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum()))


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_everything_inside_is_fp16_and_the_boundary_is_float32() -> None:
    model = build(RESIDUAL)
    before = model.SerializeToString()
    made, kept = to_fp16(model)
    assert kept == ()
    assert model.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    types = types_of(made)
    assert {n: t for n, t in types.items() if t != "float16"} == {"input": "float", "logits": "float"}
    assert sum(n.op_type == "Cast" for n in made.graph.node) == 2
    assert sum(a.nbytes for a in weights_of(made).values()) * 2 == sum(a.nbytes for a in weights_of(model).values())
    assert {n.name for n in model.graph.node} <= {n.name for n in made.graph.node}
    x = images()
    assert sqnr_db(run(model, x), run(made, x)) > 50
    assert made.opset_import[0].version == 19


def test_a_tensor_that_leaves_fp16_stays_float32_and_is_named() -> None:
    model = build(RESIDUAL)
    scale = np.float32(60000)
    for tensor in model.graph.initializer:
        if tensor.name in ("c0.weight", "c0.bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * scale, tensor.name))
        elif tensor.name in ("logits.weight",):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / scale * 16, tensor.name))
    x = images()
    reference = run(model, x)
    assert np.isfinite(reference).all()
    blind, _ = to_fp16(model)
    with np.errstate(all="ignore"):
        assert not np.isfinite(run_in_fp16(blind, x)).all()
    wide = ranges(input=4.0, c0=2e5, r0=2e5, c1=2e5, a1=2e5, r1=2e5, gap=9e4, f=9e4, logits=5.0)
    made, kept = to_fp16(model, wide)
    assert set(kept) >= {"c0", "r0", "c1", "a1", "r1", "gap", "f"}
    assert kept.index("c0") < kept.index("r1")
    assert sqnr_db(reference, run_in_fp16(made, x)) > 50
    types = types_of(made)
    assert all(types[name] == "float" for name in ("c0", "r0", "c1", "a1", "r1", "gap", "f", "logits"))


def test_calibration_passes_over_fused_tensors_and_they_are_kept_all_the_same() -> None:
    model = simplify_graph(build("c = Conv(input, k=3)\nb = BatchNormalization(c)\nr = Relu(b)\nlogits = Conv(r)"))
    for tensor in model.graph.initializer:
        if tensor.name not in ("logits.weight", "logits.bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(5e4), tensor.name))
        elif tensor.name == "logits.weight":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(5e3), tensor.name))
    found = collect_from_model(model, "", noise(16))
    conv = model.graph.node[0].output[0]
    assert conv not in found.tensors
    assert found.tensors["r"].largest > 65504
    made, kept = to_fp16(model, found)
    assert kept == (conv, "r")
    x = images()
    assert sqnr_db(run(model, x), run_in_fp16(made, x)) > 50


def test_a_shift_that_cancels_a_large_product_is_seen() -> None:
    model = build("p = Mul(input, by=1000.0)\ns = Add(p, by=-60000.0)\nlogits = Conv(s)")
    assert to_fp16(model, ranges(input=60.0, s=10.0))[1] == ("p",)
    assert to_fp16(model, ranges(input=60.0, p=20.0, s=10.0))[1] == ()


def test_only_what_is_near_the_limit_is_kept_and_casts_stand_around_it() -> None:
    seen = ranges(input=3.0, c0=3.0, r0=3.0, c1=40000.0, a1=30000.0, r1=30000.0, gap=90.0)
    made, kept = to_fp16(build(RESIDUAL), seen)
    assert kept == ("c1",)
    types = types_of(made)
    assert types["c1"] == types["a1"] == "float"  # the Add reads c1: it computes in float32
    assert types["r0"] == types["r1"] == "float16"
    assert types["c1.weight"] == "float"
    assert {"r0_as_fp32", "a1_as_fp16"} <= {n.output[0] for n in made.graph.node if n.op_type == "Cast"}


def test_moved_and_rectified_values_inherit_the_range() -> None:
    model = build("c = Conv(input)\nr = Relu(c)\np = MaxPool(r, kernel_shape=[2, 2])\nlogits = Conv(p)")
    made, kept = to_fp16(model, ranges(c=5e4))
    assert kept == ("c", "r", "p")
    assert types_of(made)["logits"] == "float"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("c.weight", 1e5, True),
        ("c.bias", 7e4, True),
        ("c.weight", 1e-6, True),
        ("c.bias", 1e-9, False),
        ("c.weight", 6e4, False),
    ],
)
def test_weights_are_checked_without_ranges(name: str, value: float, kept: bool) -> None:
    model = build("c = Conv(input)\nlogits = Conv(c)")
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, value, np.float32), name))
    made, names = to_fp16(model)
    assert names == ((name,) if kept else ())
    assert types_of(made)["c"] == ("float" if kept else "float16")


def test_a_batch_normalisation_of_tiny_variance_keeps_its_digits() -> None:
    model = build("r = Relu(input)\nb = BatchNormalization(r)\ns = Relu(b)\nlogits = Conv(s)")
    for tensor in model.graph.initializer:
        if tensor.name == "b.var":
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, 3e-9, np.float32), tensor.name))
        elif tensor.name == "b.scale":
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, 3e-3, np.float32), tensor.name))
    made, kept = to_fp16(model)
    assert kept == ()
    assert not any(n.op_type == "BatchNormalization" for n in made.graph.node)
    x = images()
    assert sqnr_db(run(model, x), run_in_fp16(made, x)) > 50


def test_bounds_beyond_fp16_are_cut_not_kept() -> None:
    model = build("c = Conv(input)\nk = Clip(c)\nlogits = Conv(k)")
    tensor = next(t for t in model.graph.initializer if t.name == "k.max")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(3.4e38), "k.max"))
    made, kept = to_fp16(model)
    assert kept == ()
    assert weights_of(made)["k.max_fp16"] == np.float16(65504)


def test_an_lrn_that_sums_large_squares_is_kept() -> None:
    model = build("c = Conv(input)\nn = LRN(c, size=5)\nlogits = Conv(n)")
    assert to_fp16(model, ranges(c=100.0, n=50.0))[1] == ()
    made, kept = to_fp16(model, ranges(c=300.0, n=50.0))
    assert kept == ("n",)
    assert types_of(made)["c"] == "float16"


@pytest.mark.parametrize(
    ("line", "fits", "beyond"),
    [
        ("s = GlobalAveragePool(c)", {"c": 1000.0}, {"c": 1100.0}),  # 64 pixels
        ("s = GlobalAveragePool(c)", {"c": 3000.0, "s": 400.0}, {"c": 3000.0, "s": 600.0}),  # c at least -20
        ("s = AveragePool(c, kernel_shape=[3, 3])", {"c": 7000.0}, {"c": 7500.0}),
        ("s = LRN(c, size=5)", {"c": 110.0}, {"c": 120.0}),
        ("s = Mean(c, c, c)", {"c": 20000.0}, {"c": 22000.0}),
        ("s = LpNormalization(c, axis=1)", {"c": 120.0}, {"c": 130.0}),  # 4 channels
        ("s = LpNormalization(c, axis=1, p=1)", {"c": 16000.0}, {"c": 17000.0}),
    ],
)
def test_a_node_whose_sum_inside_leaves_fp16_is_kept_and_what_reads_it_is_not(
    line: str, fits: dict[str, float], beyond: dict[str, float]
) -> None:
    model = build(f"c = Conv(input)\n{line}\nlogits = Conv(s)")
    for largest, names in ((fits, ()), (beyond, ("s",))):
        seen = Ranges({name: Seen(value, -20.0) for name, value in largest.items()})
        made, kept = to_fp16(model, seen)
        assert kept == names
        types = types_of(made)
        assert types["c"] == "float16"
        assert types["s"] == ("float" if names else "float16")
        assert next(types[n.input[0]] for n in made.graph.node if n.name == "logits/Conv") == "float16"
    assert to_fp16(model)[1] == ()


@pytest.mark.parametrize(
    ("epsilon", "line", "kept"),
    [
        (1e-8, "Add(a, by={})", ("g.by", "g")),
        (1e-5, "Add(a, by={})", ()),
        (0.0, "Add(a, by={})", ()),
        (1e-12, "Max(a, by={})", ("g.by", "g")),
        (1e-12, "Clip(a)", ("g.min", "g")),
    ],
)
def test_an_epsilon_that_would_be_0_stays_float32(epsilon: float, line: str, kept: tuple[str, ...]) -> None:
    """x / (|x| + epsilon), which is 0 / 0 where x is 0."""
    model = build(f"a = Abs(input)\ng = {line.format(epsilon)}\nu = Div(input, g)\nlogits = Conv(u)")
    for tensor in model.graph.initializer:
        if tensor.name == "g.min":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(epsilon), "g.min"))
    made, names = to_fp16(model)
    assert names == kept
    x = images()
    x[:, :, :4] = 0.0
    if epsilon > 0:
        assert sqnr_db(run(model, x), run_in_fp16(made, x)) > 50


def paired(scale: float, dtype: type = np.float32) -> onnx.ModelProto:
    """input -> Q/DQ -> Conv with an int8 weight, as quantised graphs have it."""
    model = build("c = Conv(input, k=3)\nr = Relu(c)\nlogits = Conv(r)")
    graph = model.graph
    weight = next(t for t in graph.initializer if t.name == "c.weight")
    array = numpy_helper.to_array(weight)
    step = np.abs(array).max(axis=(1, 2, 3)).astype(np.float16).astype(np.float32) / 128
    graph.initializer.remove(weight)
    codes = np.clip(np.rint(array / step.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
    for name, value in {"w8": codes, "ws": step, "s": np.float32(scale), "z": np.int8(0)}.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w8", "ws"], ["w"], "wdq", axis=0),
    ]
    graph.node[0].input[0], graph.node[0].input[1] = "dq", "w"
    old = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + old)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_pairs_get_fp16_scales_and_the_same_integers() -> None:
    model = paired(2.0**-5)
    made, kept = to_fp16(model)
    assert kept == ()
    types = types_of(made)
    assert types["q"] == types["w8"] == "int8"
    assert types["dq"] == types["w"] == types["c"] == types["s_fp16"] == types["ws_fp16"] == "float16"
    np.testing.assert_array_equal(weights_of(made)["w8"], weights_of(model)["w8"])
    np.testing.assert_array_equal(weights_of(made)["ws_fp16"].astype(np.float32), weights_of(model)["ws"])
    x = images()
    assert sqnr_db(run(model, x), run(made, x)) > 45


@pytest.mark.parametrize("scale", [1e-5, 1e4])
def test_a_scale_that_fp16_cannot_hold_stays_float32_with_what_reads_it(scale: float) -> None:
    model = paired(scale)
    made, kept = to_fp16(model, ranges(c=1e8, r=1e8, logits=1e8) if scale > 1 else None)
    assert kept == (("s", "dq", "c", "r", "logits") if scale > 1 else ("s", "dq"))
    types = types_of(made)
    assert types["dq"] == types["w"] == types["c"] == "float"
    assert types["r"] == ("float" if scale > 1 else "float16")
    makers = {n.output[0]: n for n in made.graph.node}
    assert [makers[i].op_type for i in makers["c"].input[:2]] == ["DequantizeLinear"] * 2  # no Cast in between
    x = images() * np.float32(50 * scale)
    assert sqnr_db(run_in_fp16(model, x), run_in_fp16(made, x)) > 45


def test_a_reader_in_float32_does_not_cost_the_others_their_fp16() -> None:
    """One int8 tensor, read by a Conv whose weight FP16 cannot hold and by one that stays FP16."""
    model = paired(2.0**-5)
    big = helper.make_node("Conv", ["dq", "big"], ["second"], "second")
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 4, 3, 3), 1e5, np.float32), "big"))
    model.graph.node.append(big)
    model.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, None))
    made, kept = to_fp16(model)
    assert kept == ("big",)
    makers = {n.output[0]: n for n in made.graph.node}
    twins = [makers[name] for name in (makers["c"].input[0], makers["second"].input[0])]
    assert [n.op_type for n in twins] == ["DequantizeLinear"] * 2
    assert twins[0].input[0] == twins[1].input[0] == "q"
    types = types_of(made)
    assert [types[n.input[1]] for n in twins] == [types[n.output[0]] for n in twins] == ["float16", "float"]


def test_tensors_too_small_for_fp16_stay_float32() -> None:
    model = build("d = Mul(input, by=1e-7)\nu = Mul(d, by=1e7)\nlogits = Conv(u)")
    assert {"d", "u"}.isdisjoint(to_fp16(model)[1])
    made, kept = to_fp16(model, ranges(input=4.0, d=4e-7, u=4.0))
    assert "d" in kept
    x = images()
    assert sqnr_db(run(model, x), run_in_fp16(made, x)) > 50


def test_a_wide_tensor_with_a_pair_stays_float32_on_both_sides() -> None:
    made, kept = to_fp16(paired(500.0), ranges(input=64000.0, c=50.0))
    assert kept == ("input", "dq")
    types = types_of(made)
    assert types["dq"] == types["c"] == "float"
    assert types["r"] == "float16"


def test_an_operator_that_onnx_has_in_float32_alone_stays_so_and_is_named() -> None:
    model = build(
        "c = Conv(input, k=3)\na = Celu(c, alpha=0.5)\ng = GlobalAveragePool(a)\nf = Flatten(g)\nlogits = Gemm(f)"
    )
    made, kept = to_fp16(model)
    assert kept == ("a",)
    kinds = types_of(made)
    assert (kinds["c"], kinds["a"], kinds["g"]) == ("float16", "float", "float16")


def test_an_fp16_graph_is_refused() -> None:
    made, _ = to_fp16(build(RESIDUAL))
    with pytest.raises(GraphError, match="the graph is FP16 already"):
        to_fp16(made)


def test_the_sidecar_says_what_was_checked(tmp_path: Path) -> None:
    graph, known = tmp_path / "m.fp32.onnx", tmp_path / "m.calib.json"
    onnx.save(build(RESIDUAL), graph)
    wide = collect_ranges(graph, noise(8))
    wide.tensors["c1"].channel_high[0] = 4e4
    write_ranges(wide, known, Sidecar(kind="ranges"))
    made = quantize(graph, tmp_path / "m.fp16.onnx", precision="fp16", ranges=known)
    sidecar = verified_sidecar(tmp_path / "m.fp16.onnx")
    assert made.sidecar == sidecar
    assert (sidecar.precision_requested, sidecar.precision_obtained) == ("fp16", "mixed")
    assert sidecar.facts == {"kept_float32": ["c1"], "range_check": "weights and activations"}
    quantize(graph, tmp_path / "b.onnx", precision="fp16")
    assert verified_sidecar(tmp_path / "b.onnx").facts["range_check"].startswith("weights only")
    assert verified_sidecar(tmp_path / "b.onnx").precision_obtained == "fp16"
