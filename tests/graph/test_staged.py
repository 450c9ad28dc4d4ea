"""A graph run from a quantizer on gives what the whole graph with it gives, and runs nothing before it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecnn.backends._onnxruntime import open_session
from edgecnn.diagnose import node_sensitivity
from edgecnn.diagnose.node_sensitivity import Difference, Trial, compare_logits, measure_quantizers, summarize
from edgecnn.graph import staged
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.candidates import Candidate, round_candidate
from edgecnn.graph.qdq.insert import insert_qdq
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.serving import load_body
from edgecnn.graph.simplify import simplify_graph
from edgecnn.graph.staged import Part, Quantizer, StagedGraph
from edgecnn.quantization import Placement
from edgecnn.results.sensitivity import TrialLine
from tests.fakes.graphs import build
from tests.fakes.int8 import RESIDUAL
from tests.fakes.noise import dataset_of

pytestmark = pytest.mark.onnx

DENSE = """
c0 = Conv(input, out=8, k=3)
r0 = Relu(c0)
c1 = Conv(r0, out=4, k=3)
d1 = Concat(r0, c1, axis=1)
r1 = Relu(d1)
c2 = Conv(r1, out=4, k=1)
d2 = Concat(r0, c1, c2, axis=1)
m = MaxPool(d2, kernel_shape=[2, 2], strides=[2, 2])
c3 = Conv(m, out=8, k=3)
r3 = Relu(c3)
c4 = Conv(r3, out=8, k=1)
g = GlobalAveragePool(c4)
f = Flatten(g)
logits = Gemm(f, out=5)
"""
PLAIN = "".join(f"c{k} = Conv({f'r{k - 1}' if k else 'input'}, out=6, k=3)\nr{k} = Relu(c{k})\n" for k in range(6)) + (
    "g = GlobalAveragePool(r5)\nf = Flatten(g)\nlogits = Gemm(f, out=4)\n"
)
SHARED = Path(os.environ.get("EDGECNN_SHARED", Path(__file__).resolve().parents[3] / "shared"))
NETWORKS = {"residual": RESIDUAL, "dense": DENSE, "plain": PLAIN}
IMAGES = np.random.default_rng(5).normal(0, 1, (19, 4, 8, 8)).astype(np.float32)


def prepared(text: str) -> tuple[Placement, Candidate, StagedGraph]:
    return prepare(simplify_graph(build(text)))


def prepare(model: onnx.ModelProto) -> tuple[Placement, Candidate, StagedGraph]:
    placement = place(model, "tensorrt")
    ranges = collect_from_model(model, "", dataset_of(IMAGES), threads=1)
    made = round_candidate(model, placement, ranges.tensors, "mse", half=True)
    return placement, made, StagedGraph(model, placement, made.scales, made.weights)


def naive_logits(placement: Placement, made: Candidate, on: Collection[Quantizer]) -> np.ndarray:
    """Of the whole graph with these quantizers, as `quantize` inserts them."""
    pairs = [
        replace(q, edges=tuple(e for e in q.edges if Quantizer(e.node, "activation") in on))
        for q in placement.activations
    ]
    weights = tuple(w for w in placement.weights if Quantizer(w.node, "weights") in on)
    held = {w.initializer: made.weights[w.initializer] for w in weights}
    part = Placement("tensorrt", tuple(q for q in pairs if q.edges), weights)
    model: onnx.ModelProto = insert_qdq(made.model, part, made.scales, held)
    return np.asarray(
        open_session(model, threads=1, optimization="none").run(None, {model.graph.input[0].name: IMAGES})[0]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_each_trial_is_what_the_whole_graph_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    placement, made, graph = prepared(NETWORKS[name])
    kept: list[np.ndarray] = []

    def keep(expected: np.ndarray, found: np.ndarray) -> Difference:
        kept.append(found)
        return compare_logits(expected, found)

    monkeypatch.setattr(node_sensitivity, "compare_logits", keep)
    monkeypatch.setattr(node_sensitivity, "allowed_threads", lambda: 1)
    found = measure_quantizers(graph, dataset_of(IMAGES), graph.quantizers, Kept())
    trials = [Trial(q, kind) for q in graph.quantizers for kind in ("alone", "without")]  # as one thread runs them
    edges = {(e.node, "activation") for q in placement.activations for e in q.edges}
    assert {(q.node, q.part) for q in graph.quantizers} == edges | {(w.node, "weights") for w in placement.weights}
    assert set(trials) == set(found.trials)
    assert len(trials) > 12
    every = frozenset(graph.quantizers)
    wanted = [naive_logits(placement, made, every)]
    only = [{t.quantizer} if t.kind == "alone" else every - {t.quantizer} for t in trials]
    wanted += [naive_logits(placement, made, on) for on in only]
    exact = naive_logits(placement, made, ())
    largest, moved = np.abs(exact).max(), 0
    for measured, whole in zip(kept, wanted, strict=True):
        assert np.abs(measured - whole).max() <= 1e-5 * largest
        moved += bool(np.abs(whole - exact).max() > 1e-4 * largest)
    assert moved > len(wanted) / 2
    assert found.trials[trials[0]] == compare_logits(kept_exact(graph), kept[1])


def kept_exact(graph: StagedGraph) -> np.ndarray:
    whole = [node for stage in graph.stages for node in stage.nodes]
    return graph.open(whole, (), [graph.index.output]).run({"input": IMAGES})[0]


class Kept(list):
    """A log in memory."""


def test_stages_meet_in_one_tensor_and_hold_every_node() -> None:
    graph = prepared(DENSE)[2]
    assert [(s.start, s.end) for s in graph.stages] == [("input", "c3"), ("c3", "logits")]
    assert [n.name for s in graph.stages for n in s.nodes] == [n.name for n in graph.index.nodes]


def test_only_what_lies_behind_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = prepared(PLAIN)[2]
    ran: list[tuple[str, ...]] = []
    original = Part.run

    def run(self: Part, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        ran.append(self.outputs)
        return original(self, values)

    monkeypatch.setattr(staged.Part, "run", run)
    first, last = graph.stages
    measure_quantizers(graph, dataset_of(IMAGES), [Quantizer("logits/Gemm", "weights")], Kept())
    assert ran.count((first.end,)) == 2 * 2  # both graphs, two batches
    assert ran.count((last.end,)) == 2 * 2 + 2 * 2
    assert next(n.name for n in graph.behind(Quantizer("c5/Conv", "weights"), last)) == "c5/Conv"
    assert "c4/Conv" not in {n.name for n in graph.behind(Quantizer("c5/Conv", "weights"), last)}


def test_what_a_killed_run_has_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns of sixteen images; and a line that is none of its own is passed over."""
    graph = prepared(RESIDUAL)[2]
    monkeypatch.setattr(node_sensitivity, "HELD_BYTES", 1)
    log, part = Kept(), Kept()
    whole = measure_quantizers(graph, dataset_of(IMAGES), graph.quantizers, log)
    assert {TrialLine(**line).first for line in log} == {0, 16}
    assert whole.whole.n == len(IMAGES)
    assert all(d.n == len(IMAGES) for d in whole.trials.values())
    part += [{"first": "0"}, *log[: len(log) - 7]]
    again = measure_quantizers(graph, dataset_of(IMAGES), graph.quantizers, part)
    assert len(part) == 1 + len(log)
    assert summary(graph, again) == summary(graph, whole)


def summary(graph: StagedGraph, found: node_sensitivity.Found) -> object:
    return summarize(graph, found, graph_name="g", graph_sha256="", data="d", method="mse", nodes=())


def test_ranks_and_figures_by_hand() -> None:
    graph = prepared(RESIDUAL)[2]
    one, two = graph.quantizers[:2]
    trials = {
        Trial(one, "alone"): Difference(10, 1.0, 0.5, 9),
        Trial(two, "alone"): Difference(10, 3.0, 1.0, 8),
        Trial(one, "without"): Difference(10, 2.0, 0.5, 10),
        Trial(two, "without"): Difference(10, 5.0, 0.5, 7),
    }
    found = node_sensitivity.Found(1000.0, Difference(10, 10.0, 2.0, 6), trials)
    said = summarize(graph, found, graph_name="g", graph_sha256="", data="d", method="mse", nodes=())
    assert (said.sqnr_db, said.agreement_pct, said.kl_nats) == (20.0, 60.0, 0.2)
    assert said.predicted_sqnr_db == pytest.approx(10 * np.log10(1000 / 4), abs=1e-4)
    first, second = said.rows
    assert (first.node, first.part, first.cost_rank, first.gain_rank) == (two.node, two.part, 1, 2)
    assert (second.cost_rank, second.gain_rank, first.noise_pct, second.noise_pct) == (2, 1, 75.0, 25.0)
    assert second.gain_db == pytest.approx(10 * np.log10(10 / 2), abs=1e-4)
    assert (second.alone_agreement_pct, second.without_agreement_pct) == (90.0, 100.0)


def test_divergence_and_agreement_by_hand() -> None:
    expected, found = (np.array(v, np.float32) for v in ([[0.0, np.log(3)], [1, 0]], [[0.0, 0.0], [1, 0]]))
    difference = compare_logits(expected, found)
    assert difference.kl_nats == pytest.approx(0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5), rel=1e-5)
    assert (difference.n, difference.agreed) == (2, 1)
    assert difference.noise == pytest.approx(np.log(3) ** 2)


@pytest.mark.parametrize(
    ("node", "weight", "layer"),
    [
        ("/layer1/layer1.0/conv1/Conv", "onnx::Conv_12", "layer1.0.conv1"),
        ("/features/features.1/conv/conv.0/Conv", "w", "features.1.conv.0"),
        ("node_conv2d_3", "layer1.0.conv1.weight", "layer1.0.conv1"),
        ("layer1.0.conv1", "layer1.0.conv1.weight", "layer1.0.conv1"),
        ("node_conv2d_3", "val_3", ""),
    ],
)
def test_the_layer_in_pytorch(node: str, weight: str, layer: str) -> None:
    made = onnx.helper.make_node("Conv", ["x", weight], ["y"], node)
    array = onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), weight)
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 1, 1])
    graph = OnnxGraph(onnx.helper.make_model(onnx.helper.make_graph([made], "g", [value], [], [array])))
    assert node_sensitivity.layer_of(graph, made) == layer


@pytest.fixture
def benchmark(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if not (SHARED / "weights").is_dir():
        pytest.skip("no shared weights and images")
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return import_module("sensitivity_cost")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20_cifar", "mobilenet_v1_x0_5", "squeezenet1_1", "mobilenet_v2", "resnet18"])
def test_the_nodes_noise_adds_up_to_the_whole_graphs(name: str, benchmark: Any, tmp_path: Path) -> None:
    found = benchmark.measure(name, 16, 1, SHARED, tmp_path)
    assert abs(found["predicted_sqnr_db"] - found["sqnr_db"]) <= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20_cifar", "mobilenet_v1_x0_5", "squeezenet1_1"])
def test_trials_of_real_networks_are_what_the_whole_graph_gives(
    name: str, benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four nodes, from the first to the last."""
    costs = import_module("ranges_cost")
    images = costs.read_images(name, SHARED, 16, 0)[0]
    monkeypatch.setattr(f"{__name__}.IMAGES", images)
    placement, made, graph = prepare(simplify_graph(load_body(costs.prepare_graph(name, SHARED, tmp_path))))
    nodes = list(dict.fromkeys(q.node for q in graph.quantizers))
    wanted = {nodes[k] for k in np.linspace(0, len(nodes) - 1, 4).astype(int)}
    chosen = [q for q in graph.quantizers if q.node in wanted]
    found = measure_quantizers(graph, dataset_of(images), chosen, Kept())
    every, exact = frozenset(graph.quantizers), naive_logits(placement, made, ())
    assert len(found.trials) == 2 * len(chosen) >= 8
    for trial, difference in found.trials.items():
        on = {trial.quantizer} if trial.kind == "alone" else every - {trial.quantizer}
        whole = compare_logits(exact, naive_logits(placement, made, on))
        allowed = 1e-5 * float(np.abs(exact).max()) * exact.size**0.5  # of the norm, where each logit is that near
        assert abs(difference.noise**0.5 - whole.noise**0.5) <= allowed
        assert difference.agreed == whole.agreed
