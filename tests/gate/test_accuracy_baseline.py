"""Accuracy against the baselines: image by image, with a margin, and against the best one ever."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.gate.accuracy_baseline import Files, record_accuracies, with_baseline_drops
from edgecnn.gate.judge import judge
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import Tolerances
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from edgecnn.statistics import difference_interval
from tests.fakes.measurements import engine, measurement

CLASSES = 10
ONE_PP = Tolerances(top1_drop_pp_max=1)


def model(right: Sequence[bool] | np.ndarray, name: str = "int8", prefix: str = "", **more: Any) -> Measurement:
    """An engine that is right on these images, and whose reference answers as it does."""
    right = np.asarray(right, bool)
    labels = np.arange(len(right)) % CLASSES
    logits = np.eye(CLASSES, dtype=np.float32)[np.where(right, labels, (labels + 1) % CLASSES)]
    found = Predictions(tuple(f"{prefix}{k}" for k in range(len(right))), labels, logits, "p", "d")
    return measurement(name, accuracy=replace(measure_accuracy(name, found, found), **more))


def wrong_at(n: int, wrong: int, start: int = 0) -> np.ndarray:
    return ~((np.arange(n) >= start) & (np.arange(n) < start + wrong))


def against(now: Measurement, files: Files, tolerances: Tolerances = ONE_PP) -> Check:
    checks = judge(tolerances, with_baseline_drops([now], files)).checks
    return next(c for c in checks if c.tolerance == "top1_regression_pp_max")


def test_a_model_that_falls_from_99_07_to_95_percent_fails_though_its_engine_agrees_with_it() -> None:
    before, now = model(wrong_at(10_000, 93)), model(wrong_at(10_000, 500))
    assert judge(ONE_PP, [now]).verdict == "PASS", "without a baseline nobody can tell"
    verdict = judge(ONE_PP, with_baseline_drops([now], record_accuracies([before], {})))
    assert (verdict.verdict, verdict.exit_code) == ("FAIL", 1)
    (check,) = (c for c in verdict.checks if c.verdict == "FAIL")
    assert (check.tolerance, check.value, check.limit) == ("top1_regression_pp_max", pytest.approx(4.07), 1)
    assert "top-1 95.00 %; the last baseline 99.07 %: drop 4.07 pp" in check.evidence
    assert "407 lost and 0 gained of the same 10000 images" in check.evidence
    assert judge(ONE_PP, with_baseline_drops([before], record_accuracies([before], {}))).verdict == "PASS"


def test_ten_small_losses_add_up_against_the_best_baseline_ever() -> None:
    n, files, outcomes = 10_000, Files(), []
    for step in range(10):
        now = model(wrong_at(n, 100 + 40 * step))
        outcomes.append(against(now, files).verdict if files else "PASS")
        files = files | record_accuracies([now], files)
    assert outcomes[:3] == ["PASS"] * 3, "0.8 pp in all is within the margin of 1"
    assert "FAIL" in outcomes
    assert outcomes[outcomes.index("FAIL") :] == ["FAIL"] * (10 - outcomes.index("FAIL"))
    (kept,) = files["ort", "int8"].engines
    assert (kept.last.top1_n, kept.best.top1_n) == (n - 460, n - 100)
    said = against(model(wrong_at(n, 460)), files)
    assert "the last baseline 95.40 %: drop 0.00 pp" in said.evidence
    assert "the best baseline 99.00 %: drop 3.60 pp" in said.evidence
    assert said.value == pytest.approx(3.6)
    better = files | record_accuracies([model(wrong_at(n, 90))], files)
    (kept,) = better["ort", "int8"].engines
    assert kept.best == kept.last, "better than ever before"


def test_the_margin_is_the_drops_unless_it_has_one_of_its_own() -> None:
    files = record_accuracies([model(wrong_at(10_000, 100))], {})
    now = model(wrong_at(10_000, 300))
    for tolerances, limit, outcome in (
        (Tolerances(top1_drop_pp_max=1), 1, "FAIL"),
        (Tolerances(top1_drop_pp_max=5), 5, "PASS"),
        (Tolerances(top1_drop_pp_max=5, top1_regression_pp_max=1), 1, "FAIL"),
        (Tolerances(top1_drop_pp_max=1, top1_regression_pp_max=5), 5, "PASS"),
        (Tolerances(agreement_pct_min=50), None, "INCONCLUSIVE"),
    ):
        check = against(now, files, tolerances)
        assert (check.limit, check.verdict) == (limit, outcome)
    assert "no margin: set tolerances.top1_regression_pp_max" in check.evidence
    low, high = against(now, files).interval or (None, None)
    assert low is not None
    assert high is not None
    for margin, outcome in ((high, "PASS"), (high - 1e-9, "INCONCLUSIVE"), (low, "INCONCLUSIVE"), (low - 1e-9, "FAIL")):
        assert against(now, files, Tolerances(top1_regression_pp_max=margin)).verdict == outcome


def test_without_a_baseline_a_margin_is_open_and_the_drops_default_judges_nothing() -> None:
    now = model(wrong_at(1000, 10))
    assert [c.tolerance for c in judge(ONE_PP, with_baseline_drops([now], {})).checks] == ["top1_drop_pp_max"]
    check = against(now, {}, Tolerances(top1_regression_pp_max=1))
    assert (check.verdict, "gate --record" in check.evidence) == ("INCONCLUSIVE", True)
    fp16 = model(wrong_at(1000, 10), "fp16", top1_pct=99.0)
    rows = with_baseline_drops([now, fp16], record_accuracies([now], {}))
    judged = {c.name: c.verdict for c in judge(ONE_PP, rows).checks if c.tolerance == "top1_regression_pp_max"}
    assert judged == {"int8": "PASS", "fp16": "INCONCLUSIVE"}, "what others are held to is not passed over"


def test_other_images_of_the_same_test_set_are_compared_as_two_samples() -> None:
    files = record_accuracies([model(wrong_at(10_000, 93))], {})
    for now, n in ((model(wrong_at(10_000, 500), prefix="new"), 10_000), (model(wrong_at(8000, 400)), 8000)):
        check = against(now, files)
        low, high = difference_interval(9907, 10_000, round(0.95 * n), n)
        assert check.interval == pytest.approx((100 * low, 100 * high))
        assert check.verdict == "FAIL"
        assert "on other images, 10000 then" in check.evidence
    few = against(model(wrong_at(300, 3), prefix="new"), files)
    assert few.verdict == "INCONCLUSIVE"
    assert few.images_needed is not None
    assert f"about {few.images_needed} images" in few.evidence
    assert few.images_needed > 300


def test_images_are_known_by_their_ids_and_labels_in_any_order() -> None:
    n = 2000
    right = wrong_at(n, 20)
    order = np.random.default_rng(0).permutation(n)
    labels = np.arange(n) % CLASSES
    logits = np.eye(CLASSES, dtype=np.float32)[np.where(right, labels, (labels + 1) % CLASSES)]
    shuffled = Predictions(tuple(str(k) for k in order), labels[order], logits[order], "p", "d")
    now = measurement("int8", accuracy=measure_accuracy("int8", shuffled, shuffled))
    (drop,) = with_baseline_drops([now], record_accuracies([model(right)], {}))[0].baseline_drops
    assert (drop.paired, drop.lost, drop.gained) == (True, 0, 0)
    moved = replace(shuffled, dataset="the same images in another folder")
    now = measurement("int8", accuracy=measure_accuracy("int8", moved, moved))
    assert with_baseline_drops([now], record_accuracies([model(right)], {}))[0].baseline_drops == (drop,)


@pytest.mark.parametrize(
    ("change", "said"), [({"data": "other"}, "data = d, this run has other"), ({"classes": 7}, "classes = 10")]
)
def test_a_baseline_of_another_test_set_is_refused(change: dict[str, Any], said: str) -> None:
    files = record_accuracies([model(wrong_at(500, 5))], {})
    now = model(wrong_at(400, 5), **change)
    for act in (with_baseline_drops, record_accuracies):
        with pytest.raises(MeasurementError, match=said) as caught:
            act([now], files)
        assert "remove the baseline" in caught.value.hint


def test_damaged_bits_are_refused_and_never_read_as_others() -> None:
    right = wrong_at(1001, 10)
    files = record_accuracies([model(right)], {})
    (kept,) = files["ort", "int8"].engines
    whole = kept.last.top1_bits
    raw = bytearray(base64.b64decode(whole))
    flipped, padded = bytes([raw[0] ^ 128, *raw[1:]]), bytes([*raw[:-1], raw[-1] | 1])
    for bits in (
        "",
        whole[:-4],
        whole + "AAAA",
        "?" + whole[1:],
        *(base64.b64encode(b).decode() for b in (flipped, padded)),
    ):
        damaged = replace(kept, last=replace(kept.last, top1_bits=bits))
        with pytest.raises(ArtifactError, match="the last baseline of int8"):
            with_baseline_drops([model(right)], {("ort", "int8"): replace(files["ort", "int8"], engines=(damaged,))})
        with pytest.raises(ArtifactError, match="int8.accuracy.json"):
            with_baseline_drops([model(right, top1_bits=bits)], files)
        with pytest.raises(ArtifactError, match="int8.accuracy.json"):
            record_accuracies([model(right, top1_bits=bits)], {})


def test_one_file_keeps_every_kind_of_engine_of_a_backend_and_precision() -> None:
    plain, simulated = model(wrong_at(500, 5)), model(wrong_at(500, 9), "int8-tensorrt")
    simulated = replace(simulated, engine=engine("int8", scheme="tensorrt"))
    files = record_accuracies([plain, simulated], {})
    kept = {b.scheme: b.last.top1_n for b in files["ort", "int8"].engines}
    assert kept == {"ort-cpu": 495, "tensorrt": 491}
    again = record_accuracies([model(wrong_at(500, 4))], files)
    assert {b.scheme: b.last.top1_n for b in again["ort", "int8"].engines} == {"ort-cpu": 496, "tensorrt": 491}
    with pytest.raises(MeasurementError, match="int8 and mine are both ort int8"):
        record_accuracies([plain, model(wrong_at(500, 5), "mine")], {})
    unlabelled = model(wrong_at(500, 5), top1_pct=None, top1_n=None)
    assert record_accuracies([unlabelled], {}) == {}
    assert with_baseline_drops([unlabelled], files)[0].baseline_drops == ()


def test_a_lucky_handful_is_not_the_best_baseline_for_ever() -> None:
    few, many = model(wrong_at(10, 0), prefix="few"), model(wrong_at(5000, 100))
    files = record_accuracies([few], {})
    files = files | record_accuracies([many], files)
    (kept,) = files["ort", "int8"].engines
    assert (kept.best.n_labelled, kept.best) == (5000, kept.last)
    assert against(many, files).verdict == "PASS"
    files = files | record_accuracies([few], files)
    (kept,) = files["ort", "int8"].engines
    assert (kept.last.n_labelled, kept.best.n_labelled) == (10, 5000)
