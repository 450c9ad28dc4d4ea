"""What is decided at a threshold, and the confidence behind it: an engine whose top-1 is untouched may still FAIL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgecnn.gate.judge import judge
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import DecisionSettings, Tolerances
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from tests.fakes.measurements import measurement

N, CLASSES = 3000, 5
REJECT = DecisionSettings(0.8, reject=True)


def reference(n: int = N, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    logits = rng.normal(0, 1, (n, CLASSES)).astype(np.float32)
    logits[np.arange(n), labels] += 4
    return Predictions(tuple(map(str, range(n))), labels, logits, "p", "d")


def compared(scale: float = 1.0, noise: float = 0.0, decision: DecisionSettings = REJECT, n: int = N) -> Measurement:
    """An engine whose logits are the reference's, scaled and with noise."""
    theirs = reference(n)
    logits = scale * theirs.logits + np.random.default_rng(1).normal(0, noise, theirs.logits.shape)
    ours = replace(theirs, logits=logits.astype(np.float32))
    return measurement(accuracy=measure_accuracy("int8", ours, theirs, decision=decision))


def only(tolerances: Tolerances, found: Measurement) -> Check:
    (check,) = judge(tolerances, [found]).checks
    return check


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.5, 3.0])
def test_scaled_confidences_fail_though_every_prediction_is_the_references(scale: float) -> None:
    found = compared(scale)
    assert found.accuracy is not None
    assert (found.accuracy.agreement_pct, found.accuracy.top1_drop_pp) == (100, 0)
    untouched = Tolerances(top1_drop_pp_max=1, agreement_pct_min=99)
    assert judge(untouched, [found]).verdict == "PASS"
    for tolerances in (Tolerances(calibration_error_pp_max=1), Tolerances(decision_flips_pct_max=1)):
        check = only(tolerances, found)
        assert check.verdict == "FAIL"
        assert check.interval is not None
        assert check.interval[0] is not None
        assert check.interval[0] > 1
        same = only(tolerances, compared(1.0))
        assert (same.verdict, same.value) == ("PASS", 0)


def test_noise_as_of_int8_is_no_calibration_error() -> None:
    found = compared(noise=0.1)
    assert only(Tolerances(calibration_error_pp_max=1), found).verdict == "PASS"
    assert found.accuracy is not None
    assert found.accuracy.decision_flips_n is not None
    assert found.accuracy.decision_flips_n > 10


def test_flips_are_judged_by_their_interval() -> None:
    found = compared(noise=0.1)
    assert found.accuracy is not None
    assert found.accuracy.decision_flips_ci_pct is not None
    low, high = found.accuracy.decision_flips_ci_pct
    for limit, outcome in ((high, "PASS"), (high - 1e-9, "INCONCLUSIVE"), (low, "INCONCLUSIVE"), (low - 1e-9, "FAIL")):
        check = only(Tolerances(decision_flips_pct_max=limit), found)
        assert check.verdict == outcome
        assert (check.images_needed is not None) == (outcome == "INCONCLUSIVE")
    assert "rejected" in check.evidence


def test_decisions_that_are_all_alike_prove_nothing() -> None:
    rejected = compared(decision=DecisionSettings(1.0, reject=True))
    check = only(Tolerances(decision_flips_pct_max=1), rejected)
    assert (check.value, check.verdict, check.mappable) == (0, "INCONCLUSIVE", False)


def test_recall_at_the_threshold_is_judged_class_by_class() -> None:
    found = compared(decision=DecisionSettings(0.8, reject=True))
    assert found.accuracy is not None
    recalls = [c.recall_pct for c in found.accuracy.decision_classes]
    assert all(r is not None and 50 < r < found.accuracy.top1_pct for r in recalls)  # type: ignore[operator]
    lowest = min(r for r in recalls if r is not None)
    assert only(Tolerances(class_recall_pct_min=lowest - 5), found).verdict == "PASS"
    check = only(Tolerances(class_recall_pct_min=95), found)
    assert check.verdict == "FAIL"
    assert "recall of 5 classes, the lowest" in check.evidence
    assert only(Tolerances(class_top1_pct_min=90), found).verdict == "PASS", "the same images by argmax"


def test_a_calibration_error_at_its_limit_is_open_with_the_images_needed() -> None:
    found = compared(0.8)
    assert found.accuracy is not None
    assert found.accuracy.calibration_error_pp is not None
    check = only(Tolerances(calibration_error_pp_max=found.accuracy.calibration_error_pp + 0.02), found)
    assert check.verdict == "INCONCLUSIVE"
    assert check.images_needed is not None
    assert check.images_needed > N
    assert f"about {check.images_needed} images" in check.evidence
    exact = found.accuracy.calibration_error_pp
    assert only(Tolerances(calibration_error_pp_max=exact), found).images_needed is None, "no number would settle it"


def test_without_a_threshold_what_is_decided_is_open() -> None:
    found = compared(decision=DecisionSettings())
    for tolerances in (Tolerances(decision_flips_pct_max=1), Tolerances(class_recall_pct_min=1)):
        check = only(tolerances, found)
        assert (check.verdict, "[decision]" in check.evidence) == ("INCONCLUSIVE", True)
    assert only(Tolerances(calibration_error_pp_max=1), found).verdict == "PASS", "confidence needs no threshold"


def test_one_logit_is_decided_at_its_own_threshold() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2
    logits = (rng.normal(0, 1, 2000) + np.where(labels, 2, -2)).astype(np.float32)[:, None]
    theirs = Predictions(tuple(map(str, range(2000))), labels, logits, "p", "d", ("ok", "defect"))
    scaled = replace(theirs, logits=2 * logits)
    decision = DecisionSettings({"defect": 0.9})
    found = measurement(accuracy=measure_accuracy("int8", scaled, theirs, decision=decision))
    assert found.accuracy is not None
    assert found.accuracy.agreement_pct == 100
    expected = ((2 * logits[:, 0] > np.log(9)) != (logits[:, 0] > np.log(9))).sum()
    assert found.accuracy.decision_flips_n == expected > 100
    assert only(Tolerances(decision_flips_pct_max=1), found).verdict == "FAIL"
