"""An INT8 graph as a network that learns: the same numbers, the same graph, and what cannot be trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.candidates import compute_logits
from edgecnn.graph.ptq.quantize import QuantizedGraph, quantize_int8
from edgecnn.graph.ptq.zero_point_folding import fold_zero_points
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build
from tests.fakes.int8 import RESIDUAL, pictures, sqnr_db, uneven

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch.qat.fake_quantize import quantize
    from edgecnn.pytorch.qat.network import QuantizedNetwork

pytestmark = [pytest.mark.torch, pytest.mark.onnx]

DEPTHWISE = """
c0 = Conv(input, out=8, k=1)
r0 = Relu(c0)
c1 = Conv(r0, out=16, k=1)
r1 = Relu(c1)
c2 = Conv(r1, k=3, group=16)
r2 = Relu(c2)
c3 = Conv(r2, out=8, k=1)
a = Add(c3, r0)
p = AveragePool(a, kernel_shape=[2, 2], strides=[2, 2])
b = BatchNormalization(p)
r4 = Relu(b)
f = Flatten(r4)
logits = Gemm(f, rows=128, out=5)
"""
KINDS = {
    "residual, a folded zero point": (RESIDUAL, "tensorrt", "fp16"),
    "depthwise, a folded zero point, FP32 around": (DEPTHWISE, "tensorrt", "fp32"),
    "ort-cpu": (RESIDUAL, "ort-cpu", "fp32"),
}


@pytest.fixture(scope="module")
def made() -> Callable[[str], QuantizedGraph]:
    """The INT8 graph of a kind as `auto` makes it, made once."""
    done = dict[str, QuantizedGraph]()

    def graph(kind: str) -> QuantizedGraph:
        if kind not in done:
            text, scheme, around = KINDS[kind]
            model, data = uneven(text), pictures(64)
            ranges = collect_from_model(simplify_graph(model), "", data)
            options: dict[str, Any] = {"around": around, "data": data}
            done[kind] = quantize_int8(model, ranges, scheme, **options)  # type: ignore[arg-type]
        return done[kind]

    return graph


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learned_is_the_same_graph_with_other_weights(
    kind: str, made: Callable[[str], QuantizedGraph]
) -> None:
    model = made(kind).model
    network = QuantizedNetwork(model)
    assert network.written_to(model).SerializeToString() == model.SerializeToString()

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter, step in network.steps():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter)).add_(step * torch.randn_like(parameter).sign())
    trained = network.written_to(model)
    before, after = OnnxGraph(model), OnnxGraph(trained)
    moved = {name for name in before.initializers if not np.array_equal(before.array(name), after.array(name))}
    products = sum(node.op_type in ("Conv", "Gemm") for node in before.nodes)
    scales = {node.input[1] for node in before.nodes if node.op_type == "QuantizeLinear"}
    learn = {"tensorrt": len(scales) - 1, "ort-cpu": 0}[KINDS[kind][1]]
    scales &= moved
    assert len(moved - scales) == 2 * products, "each weight and each bias, and no scale of weights or zero point"
    assert len(scales) == learn, "all but that of the folded zero point, or none beside integer biases"
    assert [n.SerializeToString() for n in before.nodes] == [n.SerializeToString() for n in after.nodes]
    for name in moved:
        assert np.array_equal(network.codes(name), after.array(name))

    shown = pictures(1000, seed=9)
    images = torch.from_numpy(np.stack([shown.tensor(k) for k in range(len(shown))]))
    with torch.no_grad():
        expected = network(images).numpy()
    found = compute_logits(rounded_to_fp16(trained), shown)
    assert np.square(expected - found).sum() <= 1e-4 * np.square(expected).sum(), "SQNR 40 dB"
    assert (expected.argmax(1) == found.argmax(1)).mean() >= 0.998
    with torch.no_grad():  # it does see what moved
        assert sqnr_db(QuantizedNetwork(model)(images).numpy(), expected) < 40


@pytest.mark.parametrize("kind", KINDS)
def test_quantizers_are_those_that_were_chosen(kind: str, made: Callable[[str], QuantizedGraph]) -> None:
    """Scale and zero point to the bit, and fed the same tensor, the same codes but at a boundary."""
    graph = made(kind)
    folded = graph.candidate.scales
    if graph.placement.scheme == "tensorrt":
        _, folded = fold_zero_points(graph.candidate.model, graph.placement, folded, graph.candidate.weights)
    moved = {n for n, s in graph.candidate.scales.items() if s.zero_point and s.dtype == "int8"}
    assert bool(moved) == ("folded" in kind)
    wanted = {q.tensor: folded[q.scale_group] for q in graph.placement.activations}
    found = dict(QuantizedNetwork(graph.model).quantizers())
    assert len(found) == len(wanted) >= 4
    rng = np.random.default_rng(0)
    for (name, params), expected in zip(found.items(), wanted.values(), strict=True):
        assert (np.float32(params.scale), params.zero_point, params.dtype) == (
            np.float32(expected.scale),
            expected.zero_point,
            expected.dtype,
        ), name
        low, high = params.bounds
        values = rng.uniform(1.2 * low - 1, 1.2 * high + 1, 20_000).astype(np.float32)
        values[:256] = (np.arange(256) - 127.5).astype(np.float32) * np.float32(params.scale)  # on the boundaries
        scale, zero = torch.tensor([params.scale]), torch.tensor([float(params.zero_point)])
        codes = quantize(torch.from_numpy(values), scale, zero, *params.codes).numpy()
        away = np.abs((values / np.float32(params.scale)) % 1 - 0.5) > 1e-4
        assert away.sum() > 19_000
        assert np.array_equal(codes[away], params.quantize(values)[away])


def test_gradients_pass_a_rounding_and_end_where_it_saturates() -> None:
    x = torch.tensor([-200.0, -128.4, -0.3, 0.26, 1.0, 127.4, 300.0], requires_grad=True)
    step, zero = torch.tensor([0.5]), torch.tensor([0.0])
    (quantize(x, step, zero, -128, 127) * step).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0, 0]


def test_a_scale_has_the_gradient_of_a_learned_step_size() -> None:
    """Esser et al. 2020, equation 3: round(x / s) - x / s within, the bound outside."""
    x, scale, zero = torch.tensor([-200.0, -0.3, 0.26, 1.4, 300.0]), torch.tensor([0.5], requires_grad=True), 0.0
    (quantize(x, scale, torch.tensor([zero]), -16, 15) * scale).sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(-16 + (-1 + 0.6) + (1 - 0.52) + (3 - 2.8) + 15, abs=1e-5)


def test_equal_scales_learn_as_one_and_those_of_offsets_stand(made: Callable[[str], QuantizedGraph]) -> None:
    joined = """
c1 = Conv(input, out=8, k=3)
r1 = Relu(c1)
c2 = Conv(r1, out=8, k=3)
r2 = Relu(c2)
j = Concat(r1, r2, axis=1)
c3 = Conv(j, out=8, k=3)
r3 = Relu(c3)
f = Flatten(r3)
logits = Gemm(f, rows=512, out=5)
"""
    model, data = uneven(joined), pictures(32)
    ranges = collect_from_model(simplify_graph(model), "", data)
    graph = quantize_int8(model, ranges, "tensorrt", method="minmax", around="fp32", data=data)
    network = QuantizedNetwork(graph.model)
    before = dict(network.quantizers())
    with torch.no_grad():
        for parameter, step in network.steps():
            parameter.add_(step)
    after = dict(network.quantizers())
    assert before["r1"] == before["r2"] == before["j"]
    assert after["r1"] == after["r2"] == after["j"]
    assert before["r1"] != after["r1"]
    folded = made("residual, a folded zero point")
    [offset] = {q.tensor for q in folded.placement.activations if folded.candidate.scales[q.scale_group].zero_point}
    network = QuantizedNetwork(folded.model)
    assert f"{offset}_scale_fp16" not in network.learned
    assert "r1_scale_fp16" in network.learned


def test_every_weight_learns_through_the_graph(made: Callable[[str], QuantizedGraph]) -> None:
    network = QuantizedNetwork(made("depthwise, a folded zero point, FP32 around").model)
    shown = pictures(32)
    images = torch.from_numpy(np.stack([shown.tensor(k) for k in range(32)]))
    labels = torch.arange(32) % 5
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(network(images), labels)

    first = loss()
    first.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in network.parameters())
    for _ in range(3):
        optimizer.step()
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
    assert loss().item() < first.item()


def test_with_fewer_bits_the_same_range_has_fewer_codes(made: Callable[[str], QuantizedGraph]) -> None:
    model, shown = made("residual, a folded zero point").model, pictures(64, seed=9)
    images = torch.from_numpy(np.stack([shown.tensor(k) for k in range(64)]))
    with torch.no_grad():
        whole, coarse = (QuantizedNetwork(model, bits=bits)(images).numpy() for bits in (8, 5))
    assert 5 < sqnr_db(whole, coarse) < 30


def test_the_least_of_updates_changes_no_code_and_some_more_learn(made: Callable[[str], QuantizedGraph]) -> None:
    """No weight begins halfway between two codes, where all that do would jump with the first update, of any size."""
    graph = made("residual, a folded zero point")
    network, teacher = (QuantizedNetwork(model, bits=5) for model in (graph.model, graph.candidate.model))
    shown = pictures(64)
    images = torch.from_numpy(np.stack([shown.tensor(k) for k in range(64)]))
    with torch.no_grad():
        wanted = teacher(images)

    def distance() -> torch.Tensor:
        return (network(images) - wanted).square().sum() / wanted.square().sum()

    first = distance()
    first.backward()  # type: ignore[no-untyped-call]
    before = {name: network.codes(name) for name in network.learned if network.codes(name).dtype == np.int8}
    with torch.no_grad():
        for parameter, step in network.steps():
            assert parameter.grad is not None
            parameter.sub_(1e-4 * step * parameter.grad.sign())
    assert all(np.array_equal(network.codes(name), codes) for name, codes in before.items())
    with torch.no_grad():
        assert distance().item() <= 1.02 * first.item()

    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.01 * step} for p, step in network.steps()])
    for _ in range(30):
        optimizer.zero_grad()
        distance().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        assert (distance() / first).item() < 0.8


def test_a_node_that_cannot_be_trained_is_named() -> None:
    model = build("c1 = Conv(input, k=3)\nr1 = Relu(c1)\nf = Flatten(r1)\nlogits = Gemm(f, rows=256, out=5)")
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "Celu"
    with pytest.raises(GraphError, match=r"node 'r1/Relu'.*Celu is not something that can be trained") as caught:
        network = QuantizedNetwork(model)
        network(torch.zeros(1, 4, 8, 8))
    assert caught.value.hint
