"""What stays out of INT8 because it was asked to: by name, by pattern, and by rules on what TensorRT runs no faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.errors import RecipeError
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.histogram import Ranges
from edgecnn.graph.lint import lint
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.quantize import QuantizedGraph, quantize_int8
from edgecnn.graph.qdq.exclude import find_by_rules, find_excluded, with_own_weights
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.qdq.verify import find_dequantized
from edgecnn.graph.simplify import simplify_graph
from edgecnn.results.engine import Scheme
from edgecnn.targets import find_target
from tests.fakes.graphs import build
from tests.fakes.int8 import RESIDUAL, logits, pictures, sqnr_db, uneven
from tests.fakes.placements import GRAPHS

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime  # noqa: F401

pytestmark = pytest.mark.onnx

SCHEMES: tuple[Scheme, ...] = ("tensorrt", "ort-cpu")


@pytest.fixture(scope="module")
def case() -> tuple[onnx.ModelProto, Ranges]:
    model = uneven(RESIDUAL)
    return model, collect_from_model(simplify_graph(model), "", pictures(32))


def quantized(case: tuple[onnx.ModelProto, Ranges], scheme: Scheme, *patterns: str, method: str) -> QuantizedGraph:
    model, ranges = case
    excluded = find_excluded(simplify_graph(model), patterns, scheme)
    data = pictures(32) if method == "auto" else None
    return quantize_int8(model, ranges, scheme, method=method, excluded=excluded, data=data)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", ["mse", "auto"])
def test_an_excluded_layer_computes_in_float_and_the_share_says_so(
    case: tuple[onnx.ModelProto, Ranges], scheme: Scheme, method: str
) -> None:
    """c1: 4 x 8 x 9 weights at 64 places; c2: 8 x 8 x 9; c3: 8 x 8; the Gemm 8 x 5."""
    c1, c2, c3, fc = 64 * 4 * 8 * 9, 64 * 8 * 8 * 9, 64 * 8 * 8, 8 * 5
    made = quantized(case, scheme, "c2/*", method=method)
    graph = OnnxGraph(made.model)
    for k in (0, 1):
        pairs = {n.name: find_dequantized(graph, n.input[k]) for n in graph.weighted()}
        assert [name for name, pair in pairs.items() if pair is None] == ["c2/Conv"]
    assert made.report.excluded == ("c2/Conv",)
    done = c3 + fc + (c1 if scheme == "tensorrt" else 0)  # ONNX Runtime: c1 hands c2 its result in float
    assert made.report.int8_share_pct == pytest.approx(100 * done / (c1 + c2 + c3 + fc), abs=0.01)
    assert made.report.weighted_nodes == 4
    if scheme == "ort-cpu":
        assert made.report.integer_kernels == 2
    else:
        assert lint(made.model, find_target("gpu")) == []
    whole = quantized(case, scheme, method=method)
    assert whole.report.excluded == ()
    assert whole.report.int8_share_pct == 100
    data, exact = pictures(32, seed=9), logits(case[0], pictures(32, seed=9))
    assert sqnr_db(exact, logits(made.model, data)) > max(20.0, sqnr_db(exact, logits(whole.model, data)) - 3)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", GRAPHS)
def test_no_excluded_node_reads_a_pair_and_all_others_do(name: str, scheme: Scheme) -> None:
    """Each node of each graph alone."""
    model = build(GRAPHS[name])
    readers = {e.node for s in SCHEMES for q in place(model, s).activations for e in q.edges}
    weighted = {n.name for n in OnnxGraph(model).weighted()}
    for out in readers:
        placement = place(model, scheme, {out})
        edges = {e.node for q in placement.activations for e in q.edges}
        assert {w.node for w in placement.weights} == weighted - {out}
        assert weighted - {out} <= edges
        assert out not in edges


def test_an_excluded_sum_reads_its_shortcut_in_float() -> None:
    model = build(GRAPHS["residual, identity and projection, then the classifier"])
    with_it, without = place(model, "tensorrt"), place(model, "tensorrt", {"a1/Add"})
    edges = [{(e.node, q.tensor) for q in p.activations for e in q.edges} for p in (with_it, without)]
    assert edges[0] - edges[1] == {("a1/Add", "r0")}
    assert edges[1] < edges[0]


def test_a_weight_of_two_layers_stays_float_for_the_excluded_one(case: tuple[onnx.ModelProto, Ranges]) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(build("c1 = Conv(input, k=3)\nr = Relu(c1)\nc2 = Conv(r, k=3)\nlogits = Conv(c2, out=3)"))
    model.graph.node[2].input[1] = model.graph.node[0].input[1]
    ranges = collect_from_model(simplify_graph(model), "", pictures(16))
    made = quantize_int8(model, ranges, "tensorrt", method="minmax", around="fp32", excluded={"c2/Conv"})
    graph = OnnxGraph(made.model)
    assert find_dequantized(graph, graph.node["c1/Conv"].input[1]) is not None
    own = numpy_helper.to_array(graph.initializers[graph.node["c2/Conv"].input[1]])
    np.testing.assert_array_equal(own, numpy_helper.to_array(next(i for i in model.graph.initializer)))
    assert with_own_weights(case[0], {"c2/Conv"}) is case[0], "nothing shared, nothing copied"


@pytest.mark.parametrize(
    ("patterns", "said", "hint"),
    [
        (["c2/Cnv"], "'c2/Cnv' matches no node", "did you mean 'c2/Conv'"),
        (["c1/Conv", "layer9/*"], "'layer9/*' matches no node", "nodes that can be: c1/Conv, c2/Conv"),
        (["r1/Relu"], "'r1/Relu' matches no node that reads INT8", "nodes that can be: c1/Conv"),
        ([""], "'' matches no node", "nodes that can be"),
        (["*"], "no Conv, Gemm or MatMul is left", "--precision fp16"),
        (["c?/Conv", "gemv"], "no Conv, Gemm or MatMul is left", "exclude less"),
    ],
)
def test_what_matches_nothing_or_everything_is_refused(patterns: list[str], said: str, hint: str) -> None:
    model = simplify_graph(build(RESIDUAL))
    with pytest.raises(RecipeError) as caught:
        find_excluded(model, patterns, "tensorrt")
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_names_patterns_and_rules_add_up() -> None:
    model = simplify_graph(build(RESIDUAL))
    assert find_excluded(model, (), "tensorrt") == frozenset()
    assert find_excluded(model, ["c[23]/Conv", "s/Add"], "tensorrt") == {"c2/Conv", "c3/Conv", "s/Add"}
    assert find_excluded(model, ["gemv", "c1/Conv"], "tensorrt") == {"logits/Gemm", "c1/Conv"}
    assert find_excluded(model, ["gemv", "c1/Conv"], "ort-cpu") == {"c1/Conv"}, "a rule on TensorRT's kernels"


def test_a_name_with_brackets_is_a_name_first() -> None:
    model = build("c = Conv(input)\nlogits = Conv(c)")
    model.graph.node[0].name = "block[0]/conv"
    assert find_excluded(model, ["block[0]/conv"], "tensorrt") == {"block[0]/conv"}


@pytest.mark.parametrize(
    ("rows", "inner", "columns", "left_out"),
    [
        (None, 64, 64, True),  # one row at batch 1
        (1, 64, 64, True),
        (8, 64, 64, False),
        (8, 64, 1, True),
        (8, 64, 10, True),
        (8, 12, 64, True),
        (8, 16, 16, False),
    ],
)
@pytest.mark.parametrize("turned", [True, False])
def test_products_by_the_rules(rows: int | None, inner: int, columns: int, left_out: bool, turned: bool) -> None:
    model = build(f"f = Flatten(input)\nlogits = Gemm(f, rows={inner}, out={columns})", size=1, channels=inner)
    if not turned:
        gemm, weight = model.graph.node[1], model.graph.initializer[0]
        del gemm.attribute[:]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    if rows is not None:
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = rows
    assert find_by_rules(model)["gemv"] == (("logits/Gemm",) if left_out else ())


def test_the_report_names_what_gains_little_until_it_is_excluded(case: tuple[onnx.ModelProto, Ranges]) -> None:
    shown = quantized(case, "tensorrt", method="mse").report.little_gain
    assert shown == ("few-channels: c2/Conv, c3/Conv", "gemv: logits/Gemm")
    assert quantized(case, "tensorrt", "gemv", method="mse").report.little_gain == shown[:1]
    assert quantized(case, "ort-cpu", method="mse").report.little_gain == ()


def test_a_product_with_a_vector_has_neither_rows_nor_columns_of_weights() -> None:
    weight = numpy_helper.from_array(np.ones(64, np.float32), "w")
    values = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("input", [8, 64]), ("logits", [8]))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["input", "w"], ["logits"], "m")], "g", values[:1], values[1:], [weight]
    )
    assert find_by_rules(onnx.helper.make_model(graph))["gemv"] == ()


def test_a_global_pool_reads_int8_when_asked_and_its_reader_does(case: tuple[onnx.ModelProto, Ranges]) -> None:
    model, ranges = case
    plain = quantize_int8(model, ranges, "tensorrt", method="mse")
    pooled = quantize_int8(model, ranges, "tensorrt", method="mse", pools=True)
    edges = [{(e.node, q.tensor) for q in made.placement.activations for e in q.edges} for made in (plain, pooled)]
    assert edges[1] - edges[0] == {("g/GlobalAveragePool", "r3")}
    assert edges[0] < edges[1]
    assert lint(pooled.model, find_target("gpu")) == []
    data = pictures(32, seed=9)
    exact = logits(model, data)
    assert sqnr_db(exact, logits(pooled.model, data)) > sqnr_db(exact, logits(plain.model, data)) - 3


@pytest.mark.parametrize(
    ("name", "pools"),
    [
        ("residual, identity and projection, then the classifier", True),
        ("dense block", True),
        ("squeeze and excite in a residual", False),  # the gate's other input would be quantized for it
        ("network in network", False),  # logits stay float
    ],
)
def test_which_global_pools_read_int8(name: str, pools: bool) -> None:
    model = build(GRAPHS[name])
    for excluded, wanted in (((), pools), (("gap/GlobalAveragePool",), False), (("logits/Gemm",), False)):
        edges = {e.node for q in place(model, "tensorrt", excluded, pools=True).activations for e in q.edges}
        assert ("gap/GlobalAveragePool" in edges) == wanted
    assert place(model, "ort-cpu", pools=True) == place(model, "ort-cpu")
