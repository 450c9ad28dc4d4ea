"""`auto` is not fooled: by few images, by images that are not the network's."""

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
from edgecnn.data.dataset import Dataset
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.familiarity import logits_distance, measure_told
from edgecnn.graph.ptq import candidates, judging
from edgecnn.graph.ptq.candidates import give_own_constants, round_candidate
from edgecnn.graph.ptq.equalization import equalize_channels
from edgecnn.graph.ptq.gptq import Samples
from edgecnn.graph.ptq.headroom import (
    HEADROOM,
    collect_parts,
    find_bounded,
    find_headroom,
    find_signed,
    judging_images,
    split_images,
)
from edgecnn.graph.ptq.scores import NOTHING_LEFT_DB, Scores, choose_best
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.simplify import simplify_graph
from edgecnn.steps.calibrate import check_calibration
from edgecnn.steps.quantize import quantize
from tests.fakes.graphs import build
from tests.fakes.int8 import CHAIN, RESIDUAL, SEPARABLE, logits, pictures, quantized, sqnr_db, uneven
from tests.fakes.noise import dataset_of

pytestmark = pytest.mark.onnx


def test_channels_keep_headroom_for_what_was_not_seen() -> None:
    """With headroom 4 a channel that fills a quarter or more of the range stays, others are scaled less."""
    model, data = uneven(RESIDUAL), pictures(24)
    placement, tensors = place(model, "tensorrt"), collect_from_model(model, "", data).tensors
    tight, loose = (equalize_channels(model, placement, tensors, 0.5, room)[1] for room in (1.0, 4.0))
    assert min(tight.values()) < 0.5
    assert all(loose.get(name, 1.0) >= factor for name, factor in tight.items())
    assert min(loose.values()) == pytest.approx(min(1.0, 2 * min(tight.values())), rel=0.3)
    assert equalize_channels(model, placement, tensors, 0.5, 1e6)[1] == {}


def scores(noise: list[float]) -> Scores:
    return Scores(np.full(len(noise), 100.0), np.array(noise), np.ones(len(noise), bool))


def test_a_complex_candidate_must_win_by_more_than_its_uncertainty() -> None:
    plain = scores([1.0, 1.0, 1.0, 1.0])
    assert not scores([0.2, 1.5, 0.9, 1.2]).beats(plain), "better in the sum, by one image"
    assert scores([0.8, 0.7, 0.75, 0.8]).beats(plain)
    assert not scores([0.9, 0.9, 0.9, 9.0]).beats(plain), "worse in the sum"
    assert not scores([0.5]).beats(scores([1.0])), "one image says nothing"
    assert choose_best([plain, scores([1.0] * 4), scores([0.8, 0.7, 0.75, 0.8]), scores([0.7, 0.8, 0.75, 0.7])]) == 2


def test_logits_that_are_not_finite_are_never_taken() -> None:
    exact, worse = np.array([[2.0, 1.0], [2.0, 1.0]], np.float32), np.array([[-9.0, 9.0], [-9, 9]], np.float32)
    broken = Scores.between(exact, np.array([[np.nan, 1.0], [2.0, 1.0]], np.float32))
    poor = Scores.between(exact, worse)
    assert (broken.sqnr_db, broken.agreement_pct) == (NOTHING_LEFT_DB, 50.0)
    assert poor.beats(broken)
    assert not broken.beats(poor)
    assert Scores.joined([poor, broken]).sqnr_db == NOTHING_LEFT_DB


@pytest.mark.parametrize("count", [18, 64])
def test_images_are_judged_on_by_what_was_made_of_others(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few each one, and what is taken is made of all; of many every fourth."""
    fitted: list[set[str]] = []
    made_up = candidates.reconstruct_layers

    def watching(*words: Any, **named: Any) -> Any:
        fitted.append(set(words[4].ids))
        return made_up(*words, **named)

    monkeypatch.setattr(candidates, "reconstruct_layers", watching)
    data = pictures(count)
    report = quantized(uneven(RESIDUAL), data).report
    assert any(row.taken for row in report.candidates if row.name.startswith("reconstructed"))
    assert {row.n for row in report.candidates} == {count if count < 64 else count // 4}
    if count < 64:
        *fitted, last = fitted
        assert last == set(data.ids)
        assert sorted(k for one in fitted for k in set(data.ids) - one) == sorted(data.ids)
        assert {count - len(one) for one in fitted} <= {count // 4, count // 4 + 1}
    else:
        assert {frozenset(set(data.ids) - one) for one in fitted} == {frozenset(data.ids[3::4])}


def test_images_of_a_folder_in_the_order_of_classes_are_judged_on_from_all_over() -> None:
    for count, judged in ((16, 16), (63, 63), (64, 16), (100, 25), (256, 64), (50_000, 64)):
        parts = split_images(count)
        assert len(judging_images(count)) == judged
        assert judging_images(count)[: len(parts[0])] == parts[0]
        assert len({k for part in parts for k in part}) == sum(map(len, parts)) == min(count, judged + 256)
        for part in parts:
            assert min(part) < count / 4
            assert max(part) >= count - count / 4


def dazzling(count: int, seed: int) -> Dataset:
    """One picture in eight is three times as bright."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (count, 4, 8, 8)) * np.where(rng.random((count, 1, 1, 1)) < 1 / 8, 3.0, 1.0)
    return dataset_of(values.astype(np.float32))


def test_ranges_keep_headroom_for_images_that_go_beyond_them() -> None:
    model, unseen, data = uneven(CHAIN), dazzling(400, 99), dazzling(16, 0)
    auto, plain = quantized(model, data), quantized(model, data, "mse")
    exact = logits(model, unseen)
    assert sqnr_db(exact, logits(auto.model, unseen)) > sqnr_db(exact, logits(plain.model, unseen)) + 5


def test_a_tensor_that_is_bounded_needs_no_headroom() -> None:
    text = "c1 = Conv(input, out=8, k=3)\nr1 = Relu(c1)\nc2 = Conv(r1, out=8, k=3)\ns = Mul(c2, by=20.0)\n"
    text += "r2 = Clip(s)\nc3 = Conv(r2, out=8, k=1)\ng = GlobalAveragePool(c3)\nlogits = Flatten(g)"
    model = simplify_graph(build(text))
    placement, data = place(model, "tensorrt"), pictures(32)
    seen = collect_parts(model, data)
    assert find_bounded(placement, seen) == {"r2"}
    tensors = collect_from_model(model, "", data).tensors
    expected = candidates.compute_logits(model, data.subset(judging_images(32)))
    trial = judging.Trial(model, placement, False, data, expected, tensors)
    assert trial.looked_at().bounded == {"r2"}
    level = replace(trial, equalized={"r1": 0.5}).looked_at()
    assert level.bounded == frozenset(), "channels brought to what was seen of them often end alike in all parts"
    tight, wide = (round_candidate(model, placement, tensors, "mse", False, bounded=b).scales for b in (None, {"r2"}))
    assert wide["r1"].scale == pytest.approx(HEADROOM * tight["r1"].scale)
    assert wide["r2"].scale == tight["r2"].scale


@pytest.mark.parametrize("count", [32, 64])
def test_with_many_images_values_of_either_sign_need_no_headroom(count: int) -> None:
    """As behind the linear bottleneck of a MobileNetV2."""
    text = "c1 = Conv(input, out=8, k=3)\nr1 = Relu(c1)\nc2 = Conv(r1, out=8, k=1)\nc3 = Conv(c2, out=8, k=1)\n"
    text += "r3 = Relu(c3)\ng = GlobalAveragePool(r3)\nlogits = Flatten(g)"
    model = simplify_graph(build(text))
    placement, data = place(model, "tensorrt"), pictures(count)
    assert find_signed(placement, collect_parts(model, data)) == {"input", "c2"}
    tensors = collect_from_model(model, "", data).tensors
    expected = candidates.compute_logits(model, data.subset(judging_images(count)))
    trial = judging.Trial(model, placement, False, data, expected, tensors).looked_at()
    made, tight = trial.round(tensors, ""), round_candidate(model, placement, tensors, "mse", False)
    wider = {name: made.scales[name].scale / tight.scales[name].scale for name in ("c2", "r1")}
    assert wider == pytest.approx({"c2": HEADROOM if count < 64 else 1.0, "r1": HEADROOM})


def test_what_reaches_far_on_one_side_alone_is_not_of_either_sign() -> None:
    """As behind a SiLU, whose smallest value is -0.28."""
    text = "c1 = Conv(input, out=8, k=3)\ns1 = Sigmoid(c1)\nm1 = Mul(c1, s1)\nc2 = Conv(m1, out=8, k=1)\n"
    model = simplify_graph(build(text + "g = GlobalAveragePool(c2)\nlogits = Flatten(g)"))
    placement, parts = place(model, "tensorrt"), collect_parts(model, pictures(64))
    assert min(part["m1"].low for part in parts) < 0
    assert "m1" in parts[0].keys() & {q.scale_group for q in placement.activations}
    assert find_signed(placement, parts) == {"input"}


def test_what_has_one_value_in_each_image_has_headroom_for_the_images_not_seen() -> None:
    model, data = give_own_constants(simplify_graph(build(SEPARABLE))), pictures(20)
    placement, tensors = place(model, "tensorrt"), collect_from_model(model, "", data).tensors
    headroom = find_headroom(placement, tensors)
    assert headroom == {"input": HEADROOM, "r1": HEADROOM, "r2": HEADROOM, "f": 1 + 8 / 20}
    assert (
        find_headroom(placement, {n: replace(t, positive=0 * t.positive) for n, t in tensors.items()})["f"] == HEADROOM
    )


def told(x: list[float], noise: float = 0.0) -> bool:
    """Whether samples x that all of the weight is missing for, and as much noise, speak for adding it."""
    held, values = Samples(np.zeros((1, 1), np.float32)), np.array(x, np.float32).reshape(1, -1, 1)
    missed = values + np.random.default_rng(0).normal(0, noise, values.shape)
    held.add(values, missed.astype(np.float32))
    return held.tell(np.ones((1, 1, 1)), np.zeros((1, 1, 1)))


def test_a_gain_on_few_samples_is_taken_only_where_it_can_be_told() -> None:
    assert told([1, -1, 1, -1, 1], noise=0.1)
    assert not told([1, -1, 1, -1, 1], noise=2.0)
    assert not told([1, -1, 0.5, -0.5]), "2.9 standard errors, of four samples"
    assert not told([1]), "one says nothing"
    assert told([1, -1] * 15, noise=2.0), "more samples settle it"


def test_a_candidate_that_cannot_be_made_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    inserted = judging.insert_candidate

    def failing(candidate: candidates.Candidate, placement: Any) -> onnx.ModelProto:
        if "equalized" in candidate.name:
            raise GraphError("its pairs do not fit", "none")
        return inserted(candidate, placement)

    monkeypatch.setattr(judging, "insert_candidate", failing)
    report = quantized(uneven(RESIDUAL), pictures(64)).report
    assert "reconstructed, equalized (its pairs do not fit)" in report.left_out
    assert {row.name for row in report.candidates} == {"least squared error", "with offsets", "reconstructed"}


def test_what_cannot_be_made_of_all_images_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up = judging.reconstruct_candidate

    def failing(*words: Any) -> Any:
        if len(words[3]) == 24:
            raise np.linalg.LinAlgError("Matrix is not positive definite")
        return made_up(*words)

    monkeypatch.setattr(judging, "reconstruct_candidate", failing)
    report = quantized(uneven(RESIDUAL), pictures(24)).report
    assert any("reconstructed" in line and "not positive definite" in line for line in report.left_out)
    assert [row.taken for row in report.candidates].count(True) == 1
    assert not any(row.name.startswith("reconstructed") for row in report.candidates)


TELLING = """
c = Conv(input, out=16, k=1)
r = Relu(c)
d = Conv(r, out=16, k=3)
s = Relu(d)
g = GlobalAveragePool(s)
f = Flatten(g)
logits = Gemm(f, out=12)
"""


def telling() -> onnx.ModelProto:
    """A network that commits itself: to other classes for pictures of other colors."""
    model = give_own_constants(simplify_graph(build(TELLING)))
    held = next(i for i in model.graph.initializer if i.name == "logits.weight")
    held.CopyFrom(numpy_helper.from_array(30 * numpy_helper.to_array(held), held.name))
    bias = next(i for i in model.graph.initializer if i.name == "logits.bias")
    usual = numpy_helper.to_array(bias) - logits(model, colored(256, 99)).mean(axis=0)
    bias.CopyFrom(numpy_helper.from_array(usual, bias.name))  # every class is as likely
    return model


def colored(count: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    values = 2 * rng.normal(0, 1, (count, 4, 1, 1)) + 0.3 * rng.normal(0, 1, (count, 4, 8, 8))
    return dataset_of(values.astype(np.float32))


def noise(count: int, seed: int = 0) -> Dataset:
    values = np.random.default_rng(seed).normal(0, 1, (count, 4, 8, 8))
    return dataset_of(values.astype(np.float32))


def test_images_that_are_not_the_networks_leave_auto_with_the_ranges_of_mse() -> None:
    model = telling()
    for seed in range(5):
        assert not measure_told(logits(model, colored(16, seed))).unfamiliar
        assert measure_told(logits(model, noise(16, seed))).unfamiliar
    report = quantized(model, colored(64)).report
    assert report.images_doubted is None
    assert any(row.name.startswith("reconstructed") for row in report.candidates)
    data = noise(64)
    doubted, plain = quantized(model, data), quantized(model, data, "mse")
    assert doubted.report.images_doubted is not None
    assert "to the network" in doubted.report.images_doubted or "unsure" in doubted.report.images_doubted
    assert any("reconstruction (the images" in line for line in doubted.report.left_out)
    assert plain.report.images_doubted == doubted.report.images_doubted
    unseen = colored(64, 9)
    np.testing.assert_array_equal(logits(doubted.model, unseen), logits(plain.model, unseen))


def test_an_untrained_network_and_one_of_few_classes_doubt_nothing() -> None:
    rng = np.random.default_rng(0)
    undecided = rng.normal(0, 0.3, (64, 100)).astype(np.float32)
    assert not measure_told(undecided).unfamiliar
    two = np.tile(np.array([[4.0, -4.0]], np.float32), (64, 1))
    assert not measure_told(two).unfamiliar
    ten = np.tile(np.array([[8.0, *[0.0] * 9]], np.float32), (64, 1))
    assert measure_told(ten).unfamiliar
    assert not measure_told(ten[:15]).unfamiliar


def test_the_distance_of_logits_is_none_within_a_kind_and_large_between() -> None:
    model = telling()
    test = logits(model, colored(128, 7))
    near = [logits_distance(logits(model, colored(16, seed)), test) for seed in range(5)]
    assert max(map(abs, near)) < 0.1
    assert logits_distance(logits(model, noise(16)), test) > 0.15
    assert logits_distance(test, test) == pytest.approx(0, abs=0.02)


def test_what_speaks_against_the_images_is_said_and_kept(tmp_path: Path) -> None:
    """By `quantize` as a warning and in the sidecar, by `calibrate --check` as a problem."""
    graph = tmp_path / "m.fp32.onnx"
    write_artifact(graph, lambda p: onnx.save(telling(), str(p)), Sidecar(kind="graph"))
    told = {}
    for name, data in (("good", colored(32)), ("wrong", noise(32))):
        made = quantize(graph, tmp_path / f"{name}.int8.onnx", precision="int8", dataset=data)
        doubted = read_sidecar(made.path).facts.get("images_doubted")
        found = check_calibration(data, colored(64, 7), graph)
        told[name] = (
            bool(doubted) and any(str(doubted) in line and "mse" in line for line in made.warnings),
            any("not like the test images" in problem for problem in found.problems),
            any("to the network: its" in problem or "unsure" in problem for problem in found.problems),
        )
    assert told == {"good": (False, False, False), "wrong": (True, True, True)}
