"""Q/DQ placement on small graphs, each with what is expected of it written down."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import helper

from edgecnn.errors import GraphError
from edgecnn.graph.importing.names import name_nodes
from edgecnn.graph.onnx_graph import count_multiply_adds
from edgecnn.graph.qdq.placement import place
from edgecnn.quantization import Placement
from edgecnn.results.engine import Scheme
from tests.fakes.graphs import build
from tests.fakes.placements import GRAPHS

pytestmark = pytest.mark.onnx


def shown(placement: Placement) -> list[str]:
    """One line per pair: the tensor, who reads it, and the first tensor of its group where that is another."""
    lines = []
    for pair in placement.activations:
        reads = " ".join(f"{e.node.split('/')[0]}:{e.index}" for e in pair.edges)
        lines.append(
            f"{pair.tensor} -> {reads}" + (f" | {pair.scale_group}" if pair.scale_group != pair.tensor else "")
        )
    return lines


def expect(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


TENSORRT = {
    "plain": """
        input -> c1:0
        p1 -> c2:0
        f -> logits:0
    """,
    "residual, identity and projection, then the classifier": """
        input -> c0:0
        r0 -> c1:0 a1:1
        r1 -> c2:0
        r2 -> c3:0 proj:0
        r3 -> c4:0
        proj -> a2:1
        r4 -> c5:0 a3:1
        f -> logits:0
    """,
    "option-A shortcut": """
        input -> c0:0
        r0 -> c1:0 s:0
        p -> a:1 | r0
        r1 -> logits:0
    """,
    "inverted residual": """
        input -> stem:0
        stem -> e:0 a:0
        e6 -> d:0
        d6 -> l:0
        a -> logits:0
    """,
    "fire, then a pool": """
        input -> s:0
        sr -> e1:0 e3:0
        e1r -> cat:0
        e3r -> cat:1 | e1r
        cat -> pool:0 | e1r
        pool -> logits:0 | e1r
    """,
    "inception with pooling branches": """
        input -> c:0 cat0:1
        r -> cat0:0 | input
        cat0 -> b1:0 ap:0 mp:0 | input
        b1r -> cat1:0 | input
        ap -> b2:0
        b2r -> cat1:1 | input
        mp -> cat1:2 | input
        cat1 -> logits:0 | input
    """,
    "dense block": """
        input -> c0:0
        r1 -> c1:0
        r2 -> t:0
        r3 -> c3:0
        f -> logits:0
    """,
    "pre-activation": """
        input -> c0:0
        r1 -> c1:0
        r2 -> c2:0
        r3 -> logits:0
    """,
    "squeeze and excite in a residual": """
        input -> c0:0
        r0 -> c1:0 a:1
        gap -> f1:0
        f1r -> f2:0
        r1 -> logits:0
    """,
    "silu": """
        input -> c0:0
        m0 -> logits:0
    """,
    "channel shuffle": """
        input -> c0:0
        x1 -> cat:0
        x2 -> c1:0
        r1 -> cat:1 | x1
        cat -> g:0 | x1
        y1 -> cat2:0 | x1
        y2 -> c2:0 | x1
        r2 -> cat2:1 | x1
        cat2 -> logits:0 | x1
    """,
    "network in network": """
        input -> c1:0
        r1 -> c2:0
    """,
    "joined branches": """
        input -> c1:0 c3:0
        r1 -> c2:0
        j -> logits:0
    """,
    "tanh and average pool": """
        input -> c1:0
        p1 -> logits:0
    """,
}

CPU = {
    "plain": """
        input -> c1:0
        r1 -> p1:0
        p1 -> c2:0 | r1
        r2 -> f:0
        f -> logits:0 | r2
    """,
    "residual, identity and projection, then the classifier": """
        input -> c0:0
        r0 -> c1:0 a1:1
        r1 -> c2:0
        c2 -> a1:0
        r2 -> c3:0 proj:0
        r3 -> c4:0
        c4 -> a2:0
        proj -> a2:1
        r4 -> c5:0 a3:1
        c5 -> a3:0
        gap -> f:0
        f -> logits:0 | gap
    """,
    "option-A shortcut": """
        input -> c0:0
        r0 -> c1:0 s:0
        c1 -> a:0
        p -> a:1 | r0
        r1 -> logits:0
    """,
    "inverted residual": """
        input -> stem:0
        stem -> e:0 a:0
        e6 -> d:0
        d6 -> l:0
        l -> a:1
        a -> logits:0
    """,
    "fire, then a pool": """
        input -> s:0
        sr -> e1:0 e3:0
        e1r -> cat:0
        e3r -> cat:1 | e1r
        cat -> pool:0 | e1r
        pool -> logits:0 | e1r
    """,
    "inception with pooling branches": """
        input -> c:0 cat0:1
        r -> cat0:0
        cat0 -> b1:0 ap:0 mp:0 | input
        b1r -> cat1:0
        ap -> b2:0
        b2r -> cat1:1
        mp -> cat1:2 | input
        cat1 -> logits:0 | input
    """,
    "dense block": """
        input -> c0:0
        c0 -> b1:0 cat1:0
        r1 -> c1:0
        c1 -> cat1:1
        r2 -> t:0
        t -> ap:0
        r3 -> c3:0
        c3 -> cat2:1
        gap -> f:0
        f -> logits:0 | gap
    """,
    "pre-activation": """
        input -> c0:0
        c0 -> b1:0 a1:0
        r1 -> c1:0
        c1 -> a1:1
        r2 -> c2:0
        c2 -> a2:0
        r3 -> logits:0
    """,
    "squeeze and excite in a residual": """
        input -> c0:0
        r0 -> c1:0 a:1
        c1 -> gap:0 m:0
        gap -> f1:0
        f1r -> f2:0
        f2 -> s:0
        s -> m:1
        m -> a:0
        r1 -> logits:0
    """,
    "silu": """
        input -> c0:0
        c0 -> s0:0 m0:0
        s0 -> m0:1
        m0 -> logits:0
    """,
    "channel shuffle": """
        input -> c0:0
        r0 -> x1:0
        x1 -> cat:0 | r0
        x2 -> c1:0 | r0
        r1 -> cat:1 | r0
        cat -> g:0 | r0
        g -> t:0 | r0
        t -> u:0 | r0
        u -> y1:0 | r0
        y1 -> cat2:0 | r0
        y2 -> c2:0 | r0
        r2 -> cat2:1 | r0
        cat2 -> logits:0 | r0
    """,
    "network in network": """
        input -> c1:0
        r1 -> c2:0
        r2 -> gap:0
    """,
    "joined branches": """
        input -> c1:0 c3:0
        r1 -> c2:0
        r2 -> a:0
        r3 -> a:1
        j -> logits:0
    """,
    "tanh and average pool": """
        input -> c1:0
        c1 -> t1:0
        p1 -> logits:0
    """,
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
def test_placement(name: str, scheme: Scheme) -> None:
    model = build(GRAPHS[name])
    before = model.SerializeToString()
    placement = place(model, scheme)
    assert shown(placement) == expect({"tensorrt": TENSORRT, "ort-cpu": CPU}[scheme][name])
    weighted = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert [(w.node, w.index, w.axis) for w in placement.weights] == [(n.name, 1, 0) for n in weighted]
    assert model.SerializeToString() == before


def test_tensors_of_a_concat_share_a_scale_where_their_ranges_are_alike() -> None:
    """Ranges that grow along a chain of concatenations: what is read beside them keeps its scale to half a bit. What is
    only concatenated (r1, r2) has the scale of the result, and what is only moved that of its source."""
    model = build(GRAPHS["channel shuffle"])
    spans = {"r0": 1.0, "x1": 0.2, "x2": 1.0, "r1": 0.1, "cat": 2.0, "y1": 2.0, "r2": 2.5, "cat2": 2.5}
    groups = {q.tensor: q.scale_group for q in place(model, "ort-cpu", spans=spans).activations}
    assert [groups[t] for t in ("x1", "x2", "r1", "cat", "y1", "r2", "cat2")] == ["r0", "r0", *["r1"] * 5]
    alike = place(model, "ort-cpu", spans={**spans, "r0": 1.8})
    assert {q.scale_group for q in alike.activations} == {"input", "r0"}
    assert alike == place(model, "ort-cpu")
    assert place(model, "tensorrt", spans=spans) == place(model, "tensorrt")


def test_the_axis_of_output_channels() -> None:
    model = build("f = Flatten(input)\nlogits = Gemm(f, rows=256)")
    gemm = model.graph.node[1]
    del gemm.attribute[:]
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(_transposed(model), "logits.weight"))
    assert place(model, "tensorrt").weights[0].axis == 1
    gemm.op_type = "MatMul"
    del gemm.input[2]
    assert place(model, "tensorrt").weights[0].axis == 1


def _transposed(model: onnx.ModelProto) -> Any:
    return onnx.numpy_helper.to_array(model.graph.initializer[0]).T.copy()


def test_a_product_of_two_activations_is_left_alone() -> None:
    model = build("c = Conv(input)\nm = MatMul(c, input)\nlogits = Conv(m)")
    assert shown(place(model, "tensorrt")) == ["input -> c:0", "m -> logits:0"]


def test_a_quantised_graph_is_refused() -> None:
    model = build("c = Conv(input)\nlogits = Conv(c)")
    model.graph.node.insert(1, onnx.helper.make_node("QuantizeLinear", ["c", "s"], ["q"], "again"))
    with pytest.raises(GraphError, match="'again': the graph is quantized already"):
        place(model, "ort-cpu")


def test_nodes_need_names_and_weights_need_initialisers() -> None:
    model = build("c = Conv(input)\nlogits = Conv(c)")
    model.graph.node[1].name = model.graph.node[0].name
    with pytest.raises(GraphError, match=r"'logits' has no name of its own \('c/Conv'\)"):
        place(model, "tensorrt")
    name_nodes(model.graph)
    assert [n.name for n in model.graph.node] == ["c/Conv", "c/Conv_0"]
    assert shown(place(model, "tensorrt")) == ["input -> c:0", "c -> c:0"]
    model.graph.node[1].input[1] = "c"  # computed: it stays in float
    assert shown(place(model, "tensorrt")) == ["input -> c:0"]
    held = next(i for i in model.graph.initializer if i.name == model.graph.node[0].input[1])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["fixed"], "fixed", value=held))
    model.graph.node[1].input[1] = "fixed"
    with pytest.raises(GraphError, match="'c/Conv': the weight 'fixed' of this Conv is not an initializer"):
        place(model, "tensorrt")


def test_multiply_adds_by_hand() -> None:
    model = build("""
        c1 = Conv(input, out=8, k=3)
        d = Conv(c1, k=3, group=8, stride=2)
        f = Flatten(d)
        logits = Gemm(f, rows=128, out=5)
    """)
    assert count_multiply_adds(model) == {"c1": 8 * 8 * 8 * 4 * 9, "d": 8 * 4 * 4 * 9, "logits": 128 * 5}


@pytest.mark.parametrize("dims", [(), (1,)])
def test_a_bound_may_be_an_array_of_one_value(dims: tuple[int, ...]) -> None:
    """Graphs of other converters hold the bounds of a Clip so."""
    model = build(
        "c = Conv(input, out=8)\nr = Clip(c)\nd = Conv(r, out=8)\ng = GlobalAveragePool(d)\nlogits = Flatten(g)"
    )
    clip = next(n for n in model.graph.node if n.op_type == "Clip")
    for held in model.graph.initializer:
        if held.name in clip.input:
            held.dims[:] = dims
    assert {q.tensor for q in place(model, "ort-cpu").activations} == {"input", "r", "d"}
