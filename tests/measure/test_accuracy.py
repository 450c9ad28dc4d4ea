"""Paired accuracy on predictions whose answer is known by hand, and everything that must be refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgecnn.errors import MeasurementError
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.records import to_plain
from edgecnn.results.accuracy import ChangedImage
from edgecnn.statistics import drop_interval, guess_p, wilson_interval


def predictions(classes: list[int], labels: list[int], count: int = 10) -> Predictions:
    """Logits whose first place is `classes`, the others descending by class."""
    logits = np.tile(-np.arange(count, dtype=np.float32), (len(classes), 1))
    logits[np.arange(len(classes)), classes] = 5
    names = tuple(f"class {k}" for k in range(count))
    ids = tuple(f"image/{k}" for k in range(len(classes)))
    return Predictions(ids, np.array(labels, np.int64), logits, "a" * 64, "digits", names)


LABELS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
REFERENCE = predictions([0, 1, 2, 3, 4, 5, 6, 7, 0, 0], LABELS)  # 8 right
ENGINE = predictions([0, 1, 2, 3, 4, 5, 0, 0, 8, 0], LABELS)  # loses 6 and 7, gains 8


def test_counts_by_hand() -> None:
    found = measure_accuracy("int8", ENGINE, REFERENCE)
    assert (found.n, found.n_labelled, found.classes) == (10, 10, 10)
    assert (found.top1_pct, found.reference_top1_pct) == (70, 80)
    assert (found.top1_lost, found.top1_gained) == (2, 1)
    assert found.top1_drop_pp == 10
    assert found.top1_drop_ci_pp is not None
    assert found.top1_drop_ci_pp[0] < 10 < found.top1_drop_ci_pp[1]
    assert found.mcnemar_p == 1.0
    assert found.agreement_pct == 70
    # own class first, then 0 1 2 3: labels 4..9 are in the first five only when predicted
    assert (found.top5_pct, found.reference_top5_pct) == (70, 80)
    assert [c.id for c in found.changed] == ["image/6", "image/7", "image/8"]
    assert found.changed[2] == ChangedImage("image/8", label=8, reference=0, engine=8)
    assert [row.label_name for row in found.worst_classes] == ["class 6", "class 7"]
    assert found.sqnr_db is not None
    assert found.findings == ()


def test_every_figure_has_its_unit() -> None:
    found = measure_accuracy("int8", ENGINE, REFERENCE)
    assert found.top1_drop_ci_pp == pytest.approx([100 * end for end in drop_interval(2, 1, 10)])
    assert found.agreement_ci_pct == pytest.approx([100 * end for end in wilson_interval(7, 10)])
    assert found.agreement_n == 7
    for p, truth, said in (
        (found.top1_guess_p, ENGINE.labels, ENGINE.logits.argmax(1)),
        (found.reference_top1_guess_p, ENGINE.labels, REFERENCE.logits.argmax(1)),
        (found.agreement_guess_p, REFERENCE.logits.argmax(1), ENGINE.logits.argmax(1)),
        (found.copy_guess_p, REFERENCE.logits.argmax(1), REFERENCE.logits.argmax(1)),
    ):
        assert p == guess_p(truth, said)
        assert 0 < p < 0.1
    noise = np.linalg.norm(ENGINE.logits - REFERENCE.logits) / np.linalg.norm(REFERENCE.logits)
    assert found.sqnr_db == pytest.approx(-20 * np.log10(noise))
    worst = found.worst_classes[0]
    assert (worst.n, worst.top1_lost, worst.top1_gained, worst.top1_drop_pp) == (1, 1, 0, 100)
    assert worst.top1_drop_ci_pp == pytest.approx([100 * end for end in drop_interval(1, 0, 1)])
    nameless = [replace(p, label_names=p.label_names[:6]) for p in (ENGINE, REFERENCE)]
    assert [row.label_name for row in measure_accuracy("int8", *nameless).worst_classes] == ["6", "7"]


def test_json_is_flat_but_for_its_lists() -> None:
    content = to_plain(measure_accuracy("int8", ENGINE, REFERENCE))
    assert content["name"] == "int8"
    assert not [k for k, v in content.items() if isinstance(v, dict)]
    assert isinstance(content["top1_drop_ci_pp"], list)


def test_ties_go_to_the_lower_class_in_top1_and_top5_alike() -> None:
    tied = replace(REFERENCE, logits=np.zeros_like(REFERENCE.logits))
    found = measure_accuracy("flat", tied, REFERENCE)
    assert found.top1_pct == 10
    assert found.top5_pct == 50


def test_without_labels_there_is_agreement_alone() -> None:
    unknown = np.full(10, -1, np.int64)
    found = measure_accuracy("int8", replace(ENGINE, labels=unknown), replace(REFERENCE, labels=unknown))
    assert found.agreement_pct == 70
    assert found.n_labelled == 0
    assert found.top1_pct is found.top1_drop_ci_pp is found.mcnemar_p is None
    assert found.top1_guess_p is found.reference_top1_guess_p is None


def test_top5_of_few_classes_is_not_a_measurement() -> None:
    few = predictions([0, 1, 2], [0, 1, 2], count=5)
    found = measure_accuracy("few", few, few)
    assert found.top1_pct == 100
    assert found.top5_pct is found.top5_drop_pp is None
    six = predictions([0, 1, 2], [0, 1, 2], count=6)
    assert measure_accuracy("six", six, six).top5_pct == 100


def test_logits_that_are_not_finite_count_as_wrong_and_are_never_averaged() -> None:
    logits = REFERENCE.logits.copy()
    logits[2, 7], logits[3, 0] = np.nan, np.inf
    found = measure_accuracy("fp16", replace(REFERENCE, logits=logits), REFERENCE)
    assert found.nan_count == 2
    assert found.top1_pct == 60
    assert found.agreement_pct == 80
    assert found.sqnr_db is None
    assert "not finite" in found.findings[0]
    with pytest.raises(MeasurementError, match=r"not finite on 2 of 10 images, the first is image/2"):
        measure_accuracy("fp16", REFERENCE, replace(REFERENCE, logits=logits))


def test_an_engine_without_one_finite_logit_predicts_no_class() -> None:
    found = measure_accuracy("nan", replace(ENGINE, logits=np.full_like(ENGINE.logits, np.nan)), REFERENCE)
    assert (found.nan_count, found.top1_pct, found.agreement_pct) == (10, 0, 0)
    assert found.findings == ("logits that are not finite (NaN or infinite) on 10 of 10 images, the first is image/0",)


def test_constant_predictions_are_a_finding() -> None:
    found = measure_accuracy("int8", predictions([3] * 10, LABELS), REFERENCE)
    assert "every one of the 10 predictions is class 3" in found.findings
    assert (found.top1_pct, found.top1_guess_p, found.agreement_guess_p) == (10, 1, 1)


def test_guessing_is_held_against_labels_and_against_the_reference() -> None:
    """By hand: of ten images one is rare, and one of ten guesses at it meets it: p = 1/10. Always naming the frequent
    class is right on nine of ten, and is what guessing gives: p = 1."""
    uneven, constant = [0] * 9 + [1], [0] * 10
    found = measure_accuracy("int8", predictions(constant, uneven), predictions(uneven, uneven))
    assert found.top1_pct == 90
    assert found.top1_guess_p == found.agreement_guess_p == pytest.approx(1)
    assert found.reference_top1_guess_p == found.copy_guess_p == pytest.approx(0.1)


def test_unreadable_images_are_left_out_on_both_sides() -> None:
    short = replace(ENGINE.without({"image/6"}), unreadable=("image/6",))
    found = measure_accuracy("int8", short, REFERENCE)
    assert found.n == 9
    assert found.unreadable == ("image/6",)
    assert found.top1_drop_pp == 0
    assert "1 unreadable" in found.findings[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessing_sha256": "b" * 64}, "preprocessing aaaaaaaaaaaa, the reference by bbbbbbbbbbbb"),
        ({"label_names": tuple("abcdefghij")}, "class 0 is 'class 0' here and 'a' in the reference"),
        ({"label_names": REFERENCE.label_names[:8]}, "class 8 is 'class 8' here and 'absent'"),
        ({"ids": (*REFERENCE.ids[:4], "other/4", *REFERENCE.ids[5:])}, "image 4 is 'image/4' here and 'other/4'"),
        ({"labels": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])}, "'image/9' has label 9 here and 8"),
        ({"logits": np.zeros((10, 11), np.float32)}, "10 classes, the reference 11"),
        ({"ids": (), "labels": np.zeros(0, np.int64), "logits": np.zeros((0, 10), np.float32)}, "no images"),
    ],
)
def test_a_reference_of_something_else_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        measure_accuracy("int8", ENGINE, replace(REFERENCE, **change))  # type: ignore[arg-type]


def test_predictions_of_another_length_are_refused() -> None:
    short = Predictions(REFERENCE.ids[:7], REFERENCE.labels[:7], REFERENCE.logits[:7], REFERENCE.preprocessing_sha256)
    with pytest.raises(MeasurementError, match="10 images here, 7 in the reference"):
        measure_accuracy("int8", ENGINE, short)


def binary(values: list[float], labels: list[int], threshold: float = 0.0) -> Predictions:
    ids = tuple(f"image/{k}" for k in range(len(values)))
    logits = np.array(values, np.float32)[:, None]
    return Predictions(ids, np.array(labels, np.int64), logits, "a" * 64, "d", ("good", "scratch"), threshold=threshold)


@pytest.mark.parametrize(
    ("threshold", "values"), [(0.0, [-2.0, -0.1, 0.0, 0.1, 9.0]), (0.5, [0.0, 0.4, 0.5, 0.6, 1.0])]
)
def test_one_output_decides_between_two_classes_at_its_threshold(threshold: float, values: list[float]) -> None:
    labels = [0, 1, 0, 1, 1]  # of which the second is missed; on the threshold it is class 0
    reference = binary(values, labels, threshold)
    same = measure_accuracy("int8", reference, reference)
    assert (same.classes, same.top1_pct, same.agreement_pct, same.top1_drop_pp) == (2, 80, 100, 0)
    assert same.top5_pct is None
    flipped = binary([2 * threshold - v + 1e-6 for v in values], labels, threshold)
    found = measure_accuracy("int8", flipped, reference)
    assert (found.top1_pct, found.agreement_pct, found.top1_drop_pp) == (20, 0, 60)
    assert (found.top1_lost, found.top1_gained) == (4, 1)
    assert [(c.reference, c.engine) for c in found.changed] == [(0, 1)] * 3 + [(1, 0)] * 2
    assert [row.label_name for row in found.worst_classes] == ["good", "scratch"]


def test_one_logit_that_is_not_finite_is_wrong_and_named() -> None:
    labels = [0, 1, 0, 1]
    reference = binary([-1, 1, -1, 1], labels)
    found = measure_accuracy("fp16", binary([-1, np.inf, -1, np.nan], labels), reference)
    assert (found.nan_count, found.top1_pct, found.agreement_pct) == (2, 50, 50)
    assert found.findings[0].endswith("on 2 of 4 images, the first is image/1")


def test_a_probability_is_not_compared_with_a_logit() -> None:
    logit = binary([-1, 1], [0, 1])
    with pytest.raises(MeasurementError, match="the engine gives a probability, the reference a logit"):
        measure_accuracy("e", binary([0.1, 0.9], [0, 1], 0.5), logit)
    two = replace(logit, logits=np.zeros((2, 2), np.float32))
    with pytest.raises(MeasurementError, match="the engine has one logit, the reference 2 classes"):
        measure_accuracy("e", logit, two)
