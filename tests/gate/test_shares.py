"""Shares that must be right, in all and of each class: Wilson's interval, and Holm over the classes that fail."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.gate.judge import judge
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import Tolerances
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from edgecnn.statistics import wilson_interval
from tests.fakes.measurements import measured, measurement

NAMES = ("cat", "dog", "ship", "car")


def of_classes(*rows: tuple[int, int], names: tuple[str, ...] = NAMES, classes: int = 0) -> Measurement:
    """An engine with `right` of `n` images for each class; its reference answers as it does."""
    classes = classes or len(rows)
    labels = np.repeat(np.arange(len(rows)), [n for _, n in rows])
    right = np.concatenate([np.arange(n) < count for count, n in rows])
    logits = np.eye(classes, dtype=np.float32)[np.where(right, labels, (labels + 1) % classes)]
    found = Predictions(tuple(map(str, range(len(labels)))), labels, logits, "p", "d", names)
    return measurement(accuracy=measure_accuracy("int8", found, found))


def only(tolerances: Tolerances, found: Measurement) -> Check:
    (check,) = judge(tolerances, [found]).checks
    return check


def test_top1_and_top5_are_judged_by_wilsons_interval() -> None:
    found = measured(n=1000, lost=0, gained=0)  # 900 of 1000
    low, high = (100 * end for end in wilson_interval(900, 1000))
    for limit, outcome in ((low, "PASS"), (low + 1e-9, "INCONCLUSIVE"), (high, "INCONCLUSIVE"), (high + 1e-9, "FAIL")):
        check = only(Tolerances(top1_pct_min=limit), found)
        assert (check.verdict, check.value) == (outcome, 90)
        assert check.interval == pytest.approx((low, high))
    assert found.accuracy is not None
    assert found.accuracy.top5_n is not None
    assert 900 < found.accuracy.top5_n < 1000
    share = 100 * found.accuracy.top5_n / 1000
    assert only(Tolerances(top5_pct_min=share - 3), found).verdict == "PASS"
    assert only(Tolerances(top5_pct_min=share + 3), found).verdict == "FAIL"
    check = only(Tolerances(top1_pct_min=89), found)
    assert check.images_needed is not None
    n = 10 * round(1.05 * check.images_needed / 10)
    assert only(Tolerances(top1_pct_min=89), measured(n=n, lost=0, gained=0)).verdict == "PASS"


def test_a_share_without_labels_is_open() -> None:
    n = 40
    ids, rows = tuple(map(str, range(n))), np.eye(10, dtype=np.float32)[np.arange(n) % 10]
    unlabelled = Predictions(ids, np.full(n, -1), rows, "p", "d")
    found = measurement(accuracy=measure_accuracy("int8", unlabelled, unlabelled))
    for tolerances in (Tolerances(top1_pct_min=1), Tolerances(top5_pct_min=1), Tolerances(class_top1_pct_min=1)):
        check = only(tolerances, found)
        assert (check.verdict, "no labels" in check.evidence) == ("INCONCLUSIVE", True)
    few = of_classes((90, 100), (90, 100))
    assert "five classes" in only(Tolerances(top5_pct_min=50), few).evidence


def test_a_share_that_guessing_would_reach_does_not_pass() -> None:
    constant = of_classes((1000, 1000), (0, 50))
    assert only(Tolerances(top1_pct_min=90), constant).verdict == "INCONCLUSIVE"


def test_every_class_passes_by_itself_and_the_lowest_is_shown() -> None:
    check = only(Tolerances(class_top1_pct_min=85), of_classes((950, 1000), (900, 1000), (990, 1000)))
    assert (check.verdict, check.value) == ("PASS", 90)
    assert "the lowest dog (900 of 1000)" in check.evidence
    low, _ = wilson_interval(900, 1000)
    assert check.interval is not None
    assert check.interval[0] == pytest.approx(100 * low)


def test_a_class_that_fails_is_named_and_one_that_is_open_beside_it() -> None:
    check = only(Tolerances(class_top1_pct_min=85), of_classes((950, 1000), (700, 1000), (9, 10)))
    assert check.verdict == "FAIL"
    assert "below it: dog (700 of 1000)" in check.evidence
    assert "not settled: ship (9 of 10) needs about" in check.evidence
    assert check.images_needed is None


def test_a_class_whose_images_cannot_settle_it_is_named_with_how_many_would() -> None:
    found = of_classes((960, 1000), (10, 10), (960, 1000))
    check = only(Tolerances(class_top1_pct_min=90), found)
    assert check.verdict == "INCONCLUSIVE"
    assert "not settled: dog (10 of 10) needs about 35" in check.evidence
    assert check.images_needed == round(35 * 2010 / 10)
    assert only(Tolerances(class_top1_pct_min=90), of_classes((960, 1000), (35, 35), (960, 1000))).verdict == "PASS"
    absent = only(Tolerances(class_top1_pct_min=90), of_classes((960, 1000), (960, 1000), classes=3))
    assert (absent.verdict, absent.images_needed) == ("INCONCLUSIVE", None)
    assert "ship has no image" in absent.evidence


def test_many_open_classes_are_counted() -> None:
    names = tuple(f"class{k}" for k in range(30))
    check = only(Tolerances(class_top1_pct_min=90), of_classes(*[(10, 10)] * 30, names=names))
    assert "class4 (10 of 10) needs about 35 and 25 more" in check.evidence


def test_one_class_of_many_must_fail_by_more_than_chance() -> None:
    """160 of 200 are below 86 % for one class alone (p = 0.014); among 100 classes such a one is to be expected."""
    names = tuple(f"class{k}" for k in range(100))
    good = [(190, 200)] * 99
    alone = only(Tolerances(class_top1_pct_min=86), of_classes((160, 200), (190, 200)))
    among = only(Tolerances(class_top1_pct_min=86), of_classes((160, 200), *good, names=names))
    assert (alone.verdict, among.verdict) == ("FAIL", "INCONCLUSIVE")
    assert only(Tolerances(class_top1_pct_min=86), of_classes((140, 200), *good, names=names)).verdict == "FAIL"


def test_good_classes_seldom_fail_together() -> None:
    """100 classes exactly at the limit: some of them fails in at most 2.5 % of the test sets."""
    from edgecnn.gate.rules import RULES
    from edgecnn.gate.rules.shares import OfClass, judge_classes

    rng, found = np.random.default_rng(0), measured(n=200, lost=0, gained=0)
    failed = 0
    for _ in range(300):
        rows = [OfClass(str(k), int(count), 50) for k, count in enumerate(rng.binomial(50, 0.9, 100))]
        failed += judge_classes(found, RULES["class_top1_pct_min"], 90.0, rows).verdict == "FAIL"
    assert failed <= 0.025 * 300 + 7
