"""Q/DQ placement on small graphs, each with what is expected of it written down."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from edgecnn.errors import GraphError
from edgecnn.graph.importing.names import name_nodes
from edgecnn.graph.onnx_graph import count_multiply_adds
from edgecnn.graph.qdq.placement import place
from edgecnn.quantization import Placement
from edgecnn.results.engine import Scheme
from tests.host.graphs import build


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


GRAPHS = {
    "plain": """
        c1 = Conv(input, out=8, k=3)
        r1 = Relu(c1)
        p1 = MaxPool(r1, kernel_shape=[2, 2], strides=[2, 2])
        c2 = Conv(p1, out=8, k=3)
        r2 = Relu(c2)
        f = Flatten(r2)
        logits = Gemm(f, rows=128)
    """,
    "residual, identity and projection, then the classifier": """
        c0 = Conv(input, out=8)
        r0 = Relu(c0)
        c1 = Conv(r0, k=3)
        r1 = Relu(c1)
        c2 = Conv(r1, k=3)
        a1 = Add(c2, r0)
        r2 = Relu(a1)
        c3 = Conv(r2, k=3, out=16, stride=2)
        r3 = Relu(c3)
        c4 = Conv(r3, k=3)
        proj = Conv(r2, out=16, stride=2)
        a2 = Add(c4, proj)
        r4 = Relu(a2)
        c5 = Conv(r4, k=3)
        a3 = Add(c5, r4)
        r5 = Relu(a3)
        gap = GlobalAveragePool(r5)
        f = Flatten(gap)
        logits = Gemm(f)
    """,
    "option-A shortcut": """
        c0 = Conv(input)
        r0 = Relu(c0)
        c1 = Conv(r0, k=3, out=8)
        s = Slice(r0, range=(0, 8, 2))
        p = Pad(s, pads=[0, 2, 0, 0, 0, 2, 0, 0], out=8)
        a = Add(c1, p)
        r1 = Relu(a)
        logits = Conv(r1)
    """,
    "inverted residual": """
        stem = Conv(input)
        e = Conv(stem, out=16)
        e6 = Clip(e)
        d = Conv(e6, k=3, group=16)
        d6 = Clip(d)
        l = Conv(d6, out=4)
        a = Add(stem, l)
        logits = Conv(a)
    """,
    "fire, then a pool": """
        s = Conv(input)
        sr = Relu(s)
        e1 = Conv(sr, out=8)
        e1r = Relu(e1)
        e3 = Conv(sr, out=8, k=3)
        e3r = Relu(e3)
        cat = Concat(e1r, e3r, axis=1)
        pool = MaxPool(cat, kernel_shape=[2, 2], strides=[2, 2])
        logits = Conv(pool)
    """,
    "inception with pooling branches": """
        c = Conv(input, out=8)
        r = Relu(c)
        cat0 = Concat(r, input, axis=1)
        b1 = Conv(cat0, out=4)
        b1r = Relu(b1)
        ap = AveragePool(cat0, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        b2 = Conv(ap, out=4)
        b2r = Relu(b2)
        mp = MaxPool(cat0, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        cat1 = Concat(b1r, b2r, mp, axis=1)
        logits = Conv(cat1)
    """,
    "dense block": """
        c0 = Conv(input, out=8)
        b1 = BatchNormalization(c0)
        r1 = Relu(b1)
        c1 = Conv(r1, out=4, k=3)
        cat1 = Concat(c0, c1, axis=1)
        b2 = BatchNormalization(cat1)
        r2 = Relu(b2)
        t = Conv(r2, out=6)
        ap = AveragePool(t, kernel_shape=[2, 2], strides=[2, 2])
        b3 = BatchNormalization(ap)
        r3 = Relu(b3)
        c3 = Conv(r3, out=4, k=3)
        cat2 = Concat(ap, c3, axis=1)
        b4 = BatchNormalization(cat2)
        r4 = Relu(b4)
        gap = GlobalAveragePool(r4)
        f = Flatten(gap)
        logits = Gemm(f)
    """,
    "pre-activation": """
        c0 = Conv(input)
        b1 = BatchNormalization(c0)
        r1 = Relu(b1)
        c1 = Conv(r1, k=3)
        a1 = Add(c0, c1)
        b2 = BatchNormalization(a1)
        r2 = Relu(b2)
        c2 = Conv(r2, k=3)
        a2 = Add(c2, a1)
        b3 = BatchNormalization(a2)
        r3 = Relu(b3)
        logits = Conv(r3)
    """,
    "squeeze and excite in a residual": """
        c0 = Conv(input)
        r0 = Relu(c0)
        c1 = Conv(r0, k=3)
        gap = GlobalAveragePool(c1)
        f1 = Conv(gap, out=2)
        f1r = Relu(f1)
        f2 = Conv(f1r, out=4)
        s = Sigmoid(f2)
        m = Mul(c1, s)
        a = Add(m, r0)
        r1 = Relu(a)
        logits = Conv(r1)
    """,
    "silu": """
        c0 = Conv(input)
        s0 = Sigmoid(c0)
        m0 = Mul(c0, s0)
        logits = Conv(m0)
    """,
    "channel shuffle": """
        c0 = Conv(input, out=8)
        r0 = Relu(c0)
        x1, x2 = Split(r0)
        c1 = Conv(x2)
        r1 = Relu(c1)
        cat = Concat(x1, r1, axis=1)
        g = Reshape(cat, to=[0, 2, 4, 8, 8])
        t = Transpose(g, perm=[0, 2, 1, 3, 4])
        u = Reshape(t, to=[0, 8, 8, 8])
        y1, y2 = Split(u)
        c2 = Conv(y2)
        r2 = Relu(c2)
        cat2 = Concat(y1, r2, axis=1)
        logits = Conv(cat2)
    """,
    "network in network": """
        c1 = Conv(input, k=3)
        r1 = Relu(c1)
        c2 = Conv(r1, out=10)
        r2 = Relu(c2)
        gap = GlobalAveragePool(r2)
        logits = Flatten(gap)
    """,
    "joined branches": """
        c1 = Conv(input)
        r1 = Relu(c1)
        c2 = Conv(r1)
        r2 = Relu(c2)
        c3 = Conv(input)
        r3 = Relu(c3)
        a = Add(r2, r3)
        j = Mul(a, by=0.5)
        logits = Conv(j)
    """,
    "tanh and average pool": """
        c1 = Conv(input, k=3)
        t1 = Tanh(c1)
        p1 = AveragePool(t1, kernel_shape=[2, 2], strides=[2, 2])
        logits = Conv(p1)
    """,
}

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
    model.graph.node[1].input[1] = "c"
    with pytest.raises(GraphError, match="'c/Conv_0': the weight 'c' of this Conv is not an initializer"):
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
