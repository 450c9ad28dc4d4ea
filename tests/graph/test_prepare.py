"""The form that graphs are brought to before anything else: the same result however large the weights are."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph import simplify as prepare
from edgecnn.graph.onnx_graph import copy_model
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx

# Convolutions that a constant behind them goes into, directly or through nodes that vanish, and ones left as they are.
NET = """
    conv1 = Conv(input, out=16, k=3)
    bn1 = BatchNormalization(conv1)
    relu1 = Relu(bn1)
    conv2 = Conv(relu1, out=16, k=3)
    gone = Identity(conv2)
    bn2 = BatchNormalization(gone)
    conv3 = Conv(bn2, out=16, k=3)
    scaled = Mul(conv3, by=2.0)
    conv4 = Conv(scaled, out=16, k=3)
    sum = Add(conv4, relu1)
    conv5 = Conv(sum, out=32, k=3)
    pool = GlobalAveragePool(conv5)
    flat = Flatten(pool)
    logits = Gemm(flat, out=3)
"""


def as_sets(model: onnx.ModelProto) -> tuple[object, ...]:
    """What a graph says, whatever the order of its initialisers and attributes."""
    nodes = [
        (n.name, n.op_type, tuple(n.input), tuple(n.output), frozenset(a.SerializeToString() for a in n.attribute))
        for n in model.graph.node
    ]
    tensors = {
        i.name: (i.data_type, tuple(i.dims), numpy_helper.to_array(i).tobytes()) for i in model.graph.initializer
    }
    infos = {v.name: v.SerializeToString() for v in model.graph.value_info}
    return nodes, tensors, infos, [v.SerializeToString() for v in (*model.graph.input, *model.graph.output)]


def test_weights_set_aside_come_back_and_what_is_folded_is_not_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(NET)
    seen: list[set[str]] = []
    fold = prepare._fold_constants

    def watched(bare: onnx.ModelProto) -> onnx.ModelProto:
        seen.append({i.name for i in bare.graph.initializer if i.name.endswith(".weight")})
        return fold(bare)

    monkeypatch.setattr(prepare, "_fold_constants", watched)
    whole = simplify_graph(model)
    monkeypatch.setattr(prepare, "_LARGE_BYTES", 1)
    light = simplify_graph(model)
    assert as_sets(light) == as_sets(whole)
    assert [n.op_type for n in light.graph.node].count("BatchNormalization") == 0
    onnx.checker.check_model(light, full_check=True)
    assert seen[1] == {"conv1.weight", "conv2.weight", "conv3.weight"}
    assert seen[0] - seen[1] == {"conv4.weight", "conv5.weight", "logits.weight"}
    assert as_sets(simplify_graph(light)) == as_sets(light)


def test_a_weight_with_two_readers_stays_where_one_of_them_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(NET)
    next(n for n in model.graph.node if n.name == "conv4/Conv").input[1] = "conv2.weight"
    expected = as_sets(simplify_graph(model))
    monkeypatch.setattr(prepare, "_LARGE_BYTES", 1)
    assert as_sets(simplify_graph(model)) == expected


def test_a_large_weight_of_the_wrong_length_is_still_refused() -> None:
    model = build("conv = Conv(input, out=64, k=17)\nlogits = GlobalAveragePool(conv)")
    weight = next(i for i in model.graph.initializer if i.name == "conv.weight")
    assert len(weight.raw_data) > prepare._LARGE_BYTES
    weight.raw_data = weight.raw_data[:-4]
    with pytest.raises(GraphError, match=r"conv\.weight|cannot be read"):
        simplify_graph(model)


def test_a_copy_has_every_field_and_lacks_what_it_should() -> None:
    model = build(NET)
    model.producer_name, model.model_version, model.graph.doc_string = "somebody", 7, "said"
    helper.set_model_props(model, {"key": "value"})
    assert copy_model(model) == model
    without = copy_model(model, without={"conv1.weight"})
    assert {i.name for i in model.graph.initializer} - {i.name for i in without.graph.initializer} == {"conv1.weight"}
    without.graph.node[0].name = "other"
    assert model.graph.node[0].name == "conv1/Conv"
