"""Decisions at a threshold, by hand; and how far confidences are from the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecnn.errors import RecipeError
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.decision import (
    NOT_FINITE,
    REJECTED,
    calibration_error,
    decide,
    decision_thresholds,
    paired_precision,
)
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import DecisionSettings
from edgecnn.session import Array
from edgecnn.statistics import drop_interval, wilson_interval

NAMES = ("cat", "dog", "ship")
NAN = float("nan")


def predictions(probabilities: Any, labels: Any, names: tuple[str, ...] = NAMES) -> Predictions:
    """With these probabilities [N, C]."""
    logits: Array = np.log(np.maximum(np.asarray(probabilities), 1e-30)).astype(np.float32)
    return Predictions(tuple(map(str, range(len(labels)))), np.array(labels, np.int64), logits, "p", "d", names)


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (DecisionSettings(0.6, reject=True), [0, REJECTED, 2, REJECTED]),
        (DecisionSettings({"ship": 0.3}), [0, 1, 2, 2]),
        (DecisionSettings({"dog": 0.45, "ship": 0.95}), [0, 1, 0, 0]),
        (DecisionSettings({"cat": 0.5, "dog": 0.6, "ship": 0.3}, reject=True), [0, REJECTED, 2, 2]),
    ],
)
def test_decisions_by_hand(decision: DecisionSettings, expected: list[int]) -> None:
    rows = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.05, 0.05, 0.9], [0.4, 0.2, 0.4]])
    thresholds = decision_thresholds(decision, NAMES, 3)
    assert thresholds is not None
    assert decide(rows, thresholds).tolist() == expected
    rows[1] = NAN
    assert decide(rows, thresholds)[1] == NOT_FINITE


def test_of_two_classes_a_threshold_is_that_of_the_second() -> None:
    rows = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.1, 0.9]])
    for threshold, expected in ((0.75, [0, 0, 1, 1]), (0.2, [1, 1, 1, 1]), (1.0, [0, 0, 0, 0]), (0.0, [1, 1, 1, 1])):
        thresholds = decision_thresholds(DecisionSettings(threshold), ("ok", "defect"), 2)
        assert thresholds is not None
        assert decide(rows, thresholds).tolist() == expected
    rejecting = decision_thresholds(DecisionSettings(0.75, reject=True), ("ok", "defect"), 2)
    assert rejecting is not None
    assert decide(rows, rejecting).tolist() == [0, REJECTED, 1, 1]
    assert decision_thresholds(DecisionSettings(), NAMES, 3) is None


@pytest.mark.parametrize(
    ("decision", "said", "hint"),
    [
        (DecisionSettings({"shap": 0.5}), "names the class 'shap', which is none of the 3", "ship"),
        (DecisionSettings({"zebra": 0.5}), "names the class 'zebra'", "cat, dog, ship"),
        (DecisionSettings(0.5), "what is decided below it, of 3 classes", "reject = true"),
        (DecisionSettings(dict.fromkeys(NAMES, 0.5)), "every class has one", "leave one class out"),
        (DecisionSettings(reject=True), "reject = true without a threshold", "one number"),
        (DecisionSettings({}), "names no class", "by name"),
        (DecisionSettings({"cat": 0.5}, reject=True), "'dog' has no threshold", "each class"),
    ],
)
def test_a_threshold_that_does_not_fit_the_classes_is_refused(decision: DecisionSettings, said: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        decision_thresholds(decision, NAMES, 3)
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_class_without_a_name_is_known_by_its_number() -> None:
    assert np.array_equal(decision_thresholds(DecisionSettings({"1": 0.5}), (), 3), [NAN, 0.5, NAN], equal_nan=True)  # type: ignore[arg-type]


def test_flips_recall_and_precision_by_hand() -> None:
    labels = [0, 0, 0, 1, 1, 2]
    theirs = [[0.9, 0.1, 0], [0.8, 0.2, 0], [0.5, 0.5, 0], [0.1, 0.9, 0], [0.8, 0.2, 0], [0, 0, 1]]
    ours = [[0.9, 0.1, 0], [0.6, 0.4, 0], [0.9, 0.1, 0], [0.1, 0.9, 0], [0.2, 0.8, 0], [0, 0, 1]]
    decision = DecisionSettings(0.7, reject=True)
    found = measure_accuracy("int8", predictions(ours, labels), predictions(theirs, labels), decision=decision)
    # reference: 0 0 - 1 0 2, engine: 0 - 0 1 1 2
    assert (found.decision_flips_n, found.decision_flips_pct) == (3, 50)
    assert found.decision_flips_ci_pct == pytest.approx([100 * end for end in wilson_interval(3, 6)])
    assert found.decision_rejected_pct == found.reference_decision_rejected_pct == pytest.approx(100 / 6)
    cat, dog, ship = found.decision_classes
    assert (cat.label_name, cat.n, cat.recall_n) == ("cat", 3, 2)
    assert (cat.recall_pct, cat.reference_recall_pct, cat.recall_drop_pp) == pytest.approx((200 / 3, 200 / 3, 0))
    assert cat.recall_drop_ci_pp == pytest.approx([100 * end for end in drop_interval(1, 1, 3)])
    assert (cat.precision_pct, cat.reference_precision_pct) == pytest.approx((100, 200 / 3))
    assert cat.precision_drop_pp == pytest.approx(-100 / 3)
    assert (dog.recall_pct, dog.reference_recall_pct, dog.recall_drop_pp) == (100, 50, -50)
    assert (ship.recall_n, ship.precision_pct, ship.precision_drop_pp) == (1, 100, 0)
    plain = measure_accuracy("int8", predictions(ours, labels), predictions(theirs, labels))
    assert plain.decision_flips_n is None
    assert plain.decision_classes == ()


def test_a_class_that_is_never_decided_has_no_precision_and_one_without_images_no_recall() -> None:
    rows = [[0.9, 0.1, 0], [0.6, 0.4, 0]]
    one = predictions(rows, [0, 1])
    found = measure_accuracy("int8", one, one, decision=DecisionSettings(0.7, reject=True))
    _, dog, ship = found.decision_classes
    assert (dog.recall_pct, dog.precision_pct, dog.precision_drop_ci_pp) == (0, None, None)
    assert (ship.n, ship.recall_pct, ship.recall_drop_ci_pp) == (0, None, None)


def test_logits_that_are_not_finite_are_flips_and_leave_the_confidence_open() -> None:
    one = predictions([[0.9, 0.1, 0], [0.6, 0.4, 0]], [0, 1])
    broken = predictions([[0.9, 0.1, 0], [0.6, 0.4, 0]], [0, 1])
    broken.logits[0] = NAN
    found = measure_accuracy("fp16", broken, one, decision=DecisionSettings(0.7, reject=True))
    assert found.decision_flips_n == 1
    assert found.calibration_error_pp is None


def test_the_calibration_error_by_hand() -> None:
    """One bin of forty images: half lose 0.1, half gain 0.3, so it is 0.1 away on average."""
    difference = np.array([-0.1, 0.3] * 10)
    value, (low, high) = calibration_error(np.full(20, 0.9), difference)
    assert value == pytest.approx(0.1)
    assert low < 0.1 < high
    opposite = np.array([-0.1] * 40 + [0.1] * 40)
    value, _ = calibration_error(np.linspace(0.5, 1, 80), opposite)
    assert value == pytest.approx(0.1), "bins do not cancel"
    value, (low, high) = calibration_error(np.full(300, 0.9), np.zeros(300))
    assert (value, low) == (0, 0)
    assert high == pytest.approx(3.841 / (300 + 3.841), abs=1e-4), "of none in 300, by Wilson"


def test_few_images_do_not_bound_what_is_rare() -> None:
    """One image of 200 changes by 0.9, which 100 images show in two of five samples: an error of 0.45 pp."""
    rng, below = np.random.default_rng(2), 0
    for _ in range(400):
        difference = np.where(rng.random(100) < 0.005, 0.9, 0.0) + rng.normal(0, 0.001, 100)
        below += calibration_error(rng.uniform(0.5, 1, 100), difference)[1][1] < 0.0045
    assert below <= 0.05 * 400


def test_the_interval_of_the_calibration_error_covers() -> None:
    """Seeded: confidences shifted by 2 pp with noise five times as large; and noise alone, of which none is left."""
    rng, n, covered, above = np.random.default_rng(1), 1000, 0, 0
    for _ in range(300):
        confidence = rng.uniform(0.5, 1, n)
        _, (low, high) = calibration_error(confidence, rng.normal(0.02, 0.1, n))
        covered += low <= 0.02 <= high
        above += calibration_error(confidence, rng.normal(0, 0.1, n))[1][0] > 0.005
    assert covered >= 0.95 * 300
    assert above <= 0.05 * 300


def test_the_paired_interval_of_precision_covers() -> None:
    """Labels are even, so that the precision of either is the share that it has right: 0.9, and a little less."""
    rng, n, covered, trials = np.random.default_rng(2), 400, 0, 1000
    true_drop = 0.9 - (0.95 * 0.9 + 0.05 * 0.5)
    for _ in range(trials):
        labels = rng.integers(0, 2, n)
        theirs = np.where(rng.random(n) < 0.9, labels, 1 - labels)
        ours = np.where(rng.random(n) < 0.05, rng.integers(0, 2, n), theirs)
        _, _, _, ci = paired_precision(labels == 1, ours == 1, theirs == 1)
        assert ci is not None
        covered += ci[0] <= true_drop <= ci[1]
    assert 0.93 * trials <= covered <= 0.985 * trials
    _, _, drop, ci = paired_precision(labels == 1, theirs == 1, theirs == 1)
    assert ci is not None
    assert drop == 0
    assert ci[0] < 0 < ci[1], "no difference that was seen is not none that is there"
