"""What `auto` is made of: each part exact where it must be, and better where it claims to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.diagnose.sensitivity import WEIGHTS, explain_noise, layer_noise, measure_noise_shares
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.calibration.histogram import Ranges
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq import layer_reconstruction as sequential
from edgecnn.graph.ptq.candidates import insert_candidate, round_candidate
from edgecnn.graph.ptq.channel_ties import tie_channels
from edgecnn.graph.ptq.equalization import equalize_channels, find_streams
from edgecnn.graph.ptq.gptq import Covariance, GptqRounding, Moments, Samples, search_row_scales, solve_ridge
from edgecnn.graph.ptq.im2col import layer_from_node
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.ptq.subgraph import ActivationCache
from edgecnn.graph.ptq.zero_point_folding import find_foldable_groups
from edgecnn.graph.qdq.insert import insert_qdq
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.simplify import simplify_graph
from edgecnn.steps.quantize import quantize
from tests.fakes.graphs import build
from tests.fakes.int8 import RESIDUAL, logits, pictures, sqnr_db, uneven

pytestmark = pytest.mark.onnx

BRANCHES = """
c1 = Conv(input, out=8, k=3)
r1 = Relu(c1)
m = MaxPool(r1, kernel_shape=[2, 2], strides=[2, 2])
a = Conv(m, out=6, k=1)
ra = Relu(a)
b = Conv(m, out=4, k=3)
rb = Relu(b)
cat = Concat(ra, rb, axis=1)
n = BatchNormalization(cat)
rn = Relu(n)
c4 = Conv(rn, out=8, k=1)
r4 = Relu(c4)
g = GlobalAveragePool(r4)
f = Flatten(g)
logits = Gemm(f, out=5)
"""
SHUFFLED = """
c1 = Conv(input, out=8, k=1)
r1 = Relu(c1)
a = Reshape(r1, to=[0, 2, 4, 8, 8], out=8)
t = Transpose(a, perm=[0, 2, 1, 3, 4])
b = Reshape(t, to=[0, 8, 8, 8], out=8)
d = Conv(b, out=8, k=3, group=8)
rd = Relu(d)
c2 = Conv(rd, out=6, k=1)
g = GlobalAveragePool(c2)
logits = Flatten(g)
"""


def separable(blocks: int) -> str:
    """Depthwise and 1x1 convolutions in turn, as in a MobileNet."""
    lines, last = ["c0 = Conv(input, out=16, k=3)", "r0 = Relu(c0)"], "r0"
    for i in range(1, blocks + 1):
        lines += [f"d{i} = Conv({last}, out=16, k=3, group=16)", f"e{i} = Relu(d{i})"]
        lines += [f"p{i} = Conv(e{i}, out=16, k=1)", f"r{i} = Relu(p{i})"]
        last = f"r{i}"
    return "\n".join([*lines, f"g = GlobalAveragePool({last})", "f = Flatten(g)", "logits = Gemm(f, out=5)"])


def ranges_of(model: onnx.ModelProto, tmp_path: Path) -> Ranges:
    onnx.save(model, tmp_path / "net.onnx")
    return collect_ranges(tmp_path / "net.onnx", pictures())


@pytest.mark.parametrize("text", [RESIDUAL, BRANCHES, SHUFFLED], ids=["residual", "branches", "shuffled"])
def test_equalisation_changes_the_numbers_inside_and_nothing_outside(text: str, tmp_path: Path) -> None:
    model = uneven(text)
    ranges, placement, data = ranges_of(model, tmp_path), place(model, "tensorrt"), pictures(seed=4)
    flat, factors = equalize_channels(model, placement, ranges.tensors, 1.0)
    assert min(factors.values()) < 0.3, "or nothing was equalised"
    assert sqnr_db(logits(model, data), logits(flat, data)) > 100
    after = ranges_of(flat, tmp_path).tensors
    for tensor in factors:
        if tensor in after and ranges.tensors[tensor].low >= 0:
            spread = [
                float(np.std(np.log(np.maximum(t[tensor].channel_high, 1e-3 * t[tensor].largest))))
                for t in (ranges.tensors, after)
            ]
            assert spread[1] <= spread[0] + 1e-6, tensor


def test_channels_that_meet_in_a_sum_are_one_stream_and_the_ends_are_pinned(tmp_path: Path) -> None:
    model = uneven(RESIDUAL)
    channels = tie_channels(OnnxGraph(model))
    assert (channels.roots("r1") == channels.roots("r3")).all()
    assert set(channels.roots("input")) | set(channels.roots("logits")) <= channels.pinned_roots()
    streams = find_streams(place(model, "tensorrt"), ranges_of(model, tmp_path).tensors, channels)
    assert {"r1", "f"} <= next(set(s.tensors) for s in streams if "r1" in s.tensors) | {"f"}
    assert len([s for s in streams if "r2" in s.tensors]) == 1


def test_a_node_nobody_understands_pins_what_it_touches() -> None:
    text = "c1 = Conv(input, out=8)\nh = HardSwish(c1)\nc2 = Conv(h, out=4)\n"
    text += "g = GlobalAveragePool(c2)\nlogits = Flatten(g)"
    channels = tie_channels(OnnxGraph(simplify_graph(build(text))))
    assert set(channels.roots("c1")) <= channels.pinned_roots()
    assert set(channels.roots("h")) <= channels.pinned_roots()


def test_a_folded_offset_computes_what_a_zero_point_computes(tmp_path: Path) -> None:
    model = uneven(BRANCHES)
    ranges, placement, data = ranges_of(model, tmp_path), place(model, "tensorrt"), pictures(seed=4)
    groups = find_foldable_groups(model, placement)
    assert "r4" not in {q.tensor for q in placement.activations}, "nothing but the pooling reads it"
    assert "rn" not in groups, "made by a normalisation, which has no bias to fold into"
    candidate = round_candidate(model, placement, ranges.tensors, "mse", False, offsets=True)
    text = "c1 = Conv(input, out=8)\nr1 = Relu(c1)\nc2 = Conv(r1, out=4)\nr2 = Relu(c2)\nc3 = Conv(r2, out=4, k=3)\n"
    text += "g = GlobalAveragePool(c3)\nlogits = Flatten(g)"
    model = uneven(text)
    ranges, placement = ranges_of(model, tmp_path), place(model, "tensorrt")
    assert find_foldable_groups(model, placement) == {"r1"}, "r2 is read by a convolution with padding"
    candidate = round_candidate(model, placement, ranges.tensors, "mse", False, offsets=True)
    assert candidate.scales["r1"].zero_point == -128
    direct = insert_qdq(model, placement, candidate.scales, candidate.weights)
    fold = insert_candidate(candidate, placement)
    zeros = [numpy_helper.to_array(i) for i in fold.graph.initializer if i.name.endswith("zero_point")]
    assert len(zeros) > 4
    assert not any(z.any() for z in zeros)
    assert "r1/Relu" not in {n.name for n in fold.graph.node}
    assert sqnr_db(logits(direct, data), logits(fold, data)) > 45
    exact = logits(model, data)
    symmetric = insert_candidate(round_candidate(model, placement, ranges.tensors, "mse", False), placement)
    assert sqnr_db(exact, logits(fold, data)) > sqnr_db(exact, logits(symmetric, data)) - 0.5


@pytest.mark.parametrize("line", ["c = Conv(input, out=6, k=3)", "c = Conv(input, out=8, k=3, stride=2, group=4)"])
def test_rows_times_weights_are_the_convolution(line: str) -> None:
    model = build(line + "\ng = GlobalAveragePool(c)\nlogits = Flatten(g)")
    index, data = OnnxGraph(simplify_graph(model)), pictures(4)
    layer = layer_from_node(index, index.node["c/Conv"])
    batch = np.stack([data.tensor(i) for i in range(4)])
    matrix = layer.matrix(index.array(layer.weight)).astype(np.float32)
    rows = layer.sampled(batch, 10_000, 0)
    made = np.matmul(rows, matrix.transpose(0, 2, 1)).mean(axis=1).reshape(-1) + index.array(layer.bias)
    np.testing.assert_allclose(made, logits(model, data).mean(axis=0), atol=1e-5)
    assert np.array_equal(layer.array(layer.matrix(index.array(layer.weight)), index.array(layer.weight).shape),
                          index.array(layer.weight))  # fmt: skip


def seen_by(weight: np.ndarray, noise: float, seed: int, count: int = 4000) -> Covariance:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(0, 1, (24, 24)) * np.geomspace(1, 0.05, 24)
    x = rng.normal(0, 1, (1, count, 24)) @ mixing
    seen = x + noise * rng.normal(0, 1, x.shape) + 0.1
    missed = (x - seen) @ weight[0].T
    summed, held = Moments.empty(1, weight.shape[1], 24), Samples()
    summed.add(seen[:, : count // 2].astype(np.float32), missed[:, : count // 2].astype(np.float32))
    for part in (slice(count // 2, count // 2 + 9), slice(count // 2 + 9, count)):
        held.add(seen[:, part].astype(np.float32), missed[:, part].astype(np.float32))
    whole = summed.centered().plus(held)
    changed = 0.9 * weight  # the error of a change is that of the outputs
    lost = np.square(x[0] @ weight[0].T - seen[0] @ changed[0].T - whole.offset(changed - weight)[0]).mean(axis=0)
    np.testing.assert_allclose(whole.error(changed - weight)[0], lost, rtol=1e-3)
    return whole


def test_feedback_beats_the_nearest_codes_and_ridge_beats_the_float_weights() -> None:
    weight = np.random.default_rng(1).normal(0, 1, (1, 16, 24))
    train, unseen = seen_by(weight, 0.3, 1), seen_by(weight, 0.3, 2)
    scale = search_row_scales(weight, train, False) * 8  # coarse, so that rounding is what counts
    nearest = np.clip(np.rint(weight / scale[:, :, None]), -127, 127) * scale[:, :, None]
    feedback = GptqRounding.of(train).rounded(weight, scale)
    assert np.array_equal(feedback, np.rint(feedback))
    assert np.abs(feedback).max() <= 127
    values = feedback * scale[:, :, None]
    assert unseen.error(values - weight).sum() < unseen.error(nearest - weight).sum()
    solved, kept = solve_ridge(train, 0.003), np.zeros_like(weight)
    assert unseen.error(solved).sum() < 0.9 * unseen.error(kept).sum()
    assert unseen.error(kept, np.zeros((1, 16))).sum() > unseen.error(kept).sum()


@pytest.mark.parametrize("columns", [7, 500, 1100])
def test_feedback_without_an_inverse_gives_the_codes_of_gptq(columns: int) -> None:
    """Against the published recursion over the Cholesky factor of the inverse; 1100 columns are in single precision,
    where near-ties may fall the other way."""
    rng = np.random.default_rng(columns)
    x = (rng.normal(0, 1, (1, 2000, columns)) @ rng.normal(0, 1, (columns, columns))).astype(np.float32)
    weight, scale = rng.normal(0, 1, (1, 5, columns)), np.full((1, 5), 0.3)
    moments = Moments.empty(1, 5, columns)
    moments.add(x, np.zeros((1, 2000, 5), np.float32))
    seen = moments.centered()
    feedback = GptqRounding.of(seen)
    order = feedback.order[0]
    upper = np.linalg.cholesky(np.linalg.inv(seen.raised(0.01)[0][np.ix_(order, order)])).T
    work, wanted = weight[0][:, order].copy(), np.empty((5, columns))
    for j in range(columns):
        wanted[:, j] = np.clip(np.rint(work[:, j] / 0.3), -127, 127)
        loss = (work[:, j] - wanted[:, j] * 0.3) / upper[j, j]
        work[:, j + 1 :] -= loss[:, None] * upper[j, None, j + 1 :]
    made = feedback.rounded(weight, scale)[0][:, order]
    assert np.mean(made == wanted) > (1 - 1e-9 if columns < 1000 else 0.5)
    codes = np.empty((1, 5, columns))
    codes[0][:, order] = wanted
    published = seen.error(codes * 0.3 - weight).sum()
    assert seen.error(feedback.rounded(weight, scale) * 0.3 - weight).sum() == pytest.approx(published, rel=0.02)


def test_nodes_that_share_a_weight_are_each_made_up_for(tmp_path: Path) -> None:
    """Two convolutions of one weight at different depths: what suits one must not be written over by the other."""
    text = "c1 = Conv(input, out=4, k=3)\nr1 = Relu(c1)\nc2 = Conv(r1, out=4, k=3)\nr2 = Relu(c2)\n"
    model = build(text + "c3 = Conv(r2, out=4, k=3)\ng = GlobalAveragePool(c3)\nlogits = Flatten(g)")
    last = next(n for n in model.graph.node if n.name == "c3/Conv")
    last.input[1:3] = ["c2.weight", "c2.bias"]
    ranges, unseen = ranges_of(model, tmp_path), pictures(64, seed=9)
    assert len({n.input[1] for n in simplify_graph(model).graph.node if n.op_type == "Conv"}) == 2
    quantized = quantize_int8(model, ranges, "tensorrt", around="fp32", data=pictures())
    made, report = quantized.model, quantized.report
    codes = {n.input[0] for n in made.graph.node if n.op_type == "DequantizeLinear" and "weight" in n.input[0]}
    assert len(codes) == 3
    best = max(report.candidates, key=lambda s: s.sqnr_db)
    reached = sqnr_db(logits(model, unseen), logits(made, unseen))
    assert reached == pytest.approx(best.sqnr_db, abs=2.0), "as it was judged, made of more images"
    plain_made = quantize_int8(model, ranges, "tensorrt", method="mse", around="fp32").model
    assert reached > sqnr_db(logits(model, unseen), logits(plain_made, unseen)) + 1


@pytest.mark.parametrize(("scheme", "margin_db"), [("tensorrt", 1.0), ("ort-cpu", -0.3)])
def test_auto_beats_the_range_methods_on_images_it_has_not_seen(scheme: Any, margin_db: float, tmp_path: Path) -> None:
    """On a CPU a tensor that is never negative has all its levels already: there, auto must not lose."""
    model = uneven(separable(5))
    ranges, data, unseen = ranges_of(model, tmp_path), pictures(), pictures(200, seed=9)
    exact = logits(model, unseen)
    reached = {}
    for method in ("minmax", "mse", "auto"):
        quantized = quantize_int8(model, ranges, scheme, method=method, around="fp32", data=data)
        made, report = quantized.model, quantized.report
        reached[method] = sqnr_db(exact, logits(made, unseen))
    assert reached["auto"] > max(reached["minmax"], reached["mse"]) + margin_db, reached
    assert len([s.name for s in report.candidates if s.taken]) == 1
    assert next(s.sqnr_db for s in report.candidates if s.taken) >= report.candidates[0].sqnr_db
    assert report.int8_share_pct == 100.0


def test_auto_twice_is_the_same_and_says_what_it_leaves_out_without_images(tmp_path: Path) -> None:
    model = uneven(BRANCHES)
    ranges = ranges_of(model, tmp_path)
    first, second = (quantize_int8(model, ranges, "tensorrt", data=pictures()) for _ in range(2))
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(deterministic=True)
    assert first.report.left_out == ()
    report = quantize_int8(model, ranges, "tensorrt").report
    assert any("reconstruction (without images)" in line for line in report.left_out)
    report = quantize_int8(model, ranges, "tensorrt", data=pictures(9)).report
    assert any("with 9 different images" in line for line in report.left_out)


@pytest.mark.parametrize("count", [16, 40, 100])
def test_a_part_is_held_out_of_the_regression_however_few_images_there_are(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shares, solved = uneven(RESIDUAL), [], sequential._solve

    def watching(index: OnnxGraph, layer: Any, moments: tuple[Moments, Samples], half: bool) -> object:
        shares.append(moments[1].count / (moments[0].count + moments[1].count))
        return solved(index, layer, moments, half)

    monkeypatch.setattr(sequential, "_solve", watching)
    quantize_int8(model, ranges_of(model, tmp_path), "tensorrt", data=pictures(count))
    assert shares
    assert min(shares) >= 0.15, shares
    assert max(shares) <= 0.35, shares


def test_explain_finds_the_tensor_that_makes_the_noise(tmp_path: Path) -> None:
    model = uneven(RESIDUAL)
    ranges, placement, data = ranges_of(model, tmp_path), place(model, "tensorrt"), pictures(24)
    candidate = round_candidate(model, placement, ranges.tensors, "mse", False)
    even = measure_noise_shares(candidate, placement, data)
    assert sum(even.values()) == pytest.approx(100, abs=0.1)
    assert set(even) == {q.scale_group for q in placement.activations} | {WEIGHTS}
    candidate.scales["r2"] = replace(candidate.scales["r2"], scale=16 * candidate.scales["r2"].scale)
    spoilt = measure_noise_shares(candidate, placement, data)
    assert max(spoilt, key=lambda g: spoilt[g]) == "r2"
    assert spoilt["r2"] > max(60, even["r2"])
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    made = quantize_int8(model, ranges, "tensorrt", around="fp32", data=pictures(), progress=tell)
    assert told[-1][0] == told[-1][1] > 1
    explained = explain_noise(made.report, made.candidate, made.placement, pictures(), tell)
    shares = [
        explained.weights_logit_noise_pct,
        *{r.scale_group: r.logit_noise_pct for r in explained.tensors}.values(),
    ]
    assert told[-1] == (len(shares) - 1, len(shares))
    assert min(s for s in shares if s is not None) > 0
    assert sum(s for s in shares if s is not None) == pytest.approx(100, abs=0.1)
    rows = layer_noise(explained, made.placement)
    assert [r.logit_noise_pct for r in rows] == sorted((s for s in shares[1:] if s is not None), reverse=True)
    readers = {n.name for n in model.graph.node}
    assert all(row.nodes and readers.issuperset(row.nodes) for row in rows)


def test_what_explain_measured_stands_in_the_sidecar(tmp_path: Path) -> None:
    """Where `edgecnn explain` reads it; without --explain nothing does."""
    graph = tmp_path / "m.fp32.onnx"
    write_artifact(graph, lambda p: onnx.save(uneven(RESIDUAL), str(p)), Sidecar(kind="graph"))
    for explain in (False, True):
        made = quantize(
            graph, tmp_path / "m.int8.onnx", precision="int8", method="mse", dataset=pictures(24), explain=explain
        )
        told = read_sidecar(made.path).facts
        assert ("layer_noise" in told, "weights_logit_noise_pct" in told) == (explain, explain)
    assert set(told["layer_noise"][0]) == {"tensor", "nodes", "logit_noise_pct"}


def test_kept_activations_come_back_without_parsing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates are made in two threads, and Python 3.11 cannot parse in two at once."""
    monkeypatch.setattr("ast.literal_eval", None)
    cache, value = ActivationCache(tmp_path), np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    cache.put("a", 0, value)
    cache.put("ab", 0, value[:1] + 1)
    np.testing.assert_array_equal(cache.get("a", 0), value)
    cache.drop("a")
    np.testing.assert_array_equal(cache.get("ab", 0), value[:1] + 1)
    assert len(list(tmp_path.iterdir())) == 1
