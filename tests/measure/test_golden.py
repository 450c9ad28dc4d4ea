"""Which images test an engine on a board, and how far it may be from its reference there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgecnn.errors import MeasurementError
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.golden import golden_positions, self_test_of, sqnr_limit
from edgecnn.measure.predict import Predictions
from edgecnn.measure.served import NOT_NAMED
from edgecnn.results.release import SelfTest


def predictions(logits: np.ndarray, threshold: float = 0.0) -> Predictions:
    ids = tuple(f"{k}.png" for k in range(len(logits)))
    return Predictions(ids, np.full(len(ids), -1), logits.astype(np.float32), "", "some", threshold=threshold)


def test_of_each_class_the_clearest() -> None:
    """By turns: one image of each class before the second of any, the clearest first."""
    margins = {0: [9.0, 1.0, 5.0, 7.0], 1: [0.1], 2: [0.2]}
    logits = [[m * (k == c) for k in range(3)] for c, ms in margins.items() for m in ms]
    found = predictions(np.array(logits))
    assert golden_positions(found, (), 3) == [0, 4, 5]
    assert golden_positions(found, (), 5) == [0, 2, 3, 4, 5]
    assert golden_positions(found, (), 20) == [0, 1, 2, 3, 4, 5]
    assert golden_positions(found, {"0.png", "4.png"}, 2) == [3, 5]


def test_what_is_not_finite_or_changed_is_none() -> None:
    logits = np.array([[1.0, np.nan], [np.inf, 0.0], [2.0, 1.0]])
    assert golden_positions(predictions(logits), ()) == [2]
    with pytest.raises(MeasurementError, match="agree on none of 3 images"):
        golden_positions(predictions(logits), {"2.png"})


def test_one_column_is_set_against_its_threshold() -> None:
    found = predictions(np.array([[0.1], [3.0], [-0.2], [-4.0]]))
    assert golden_positions(found, (), 2) == [1, 3]
    probable = predictions(np.array([[0.51], [0.9], [0.4], [0.05]]), threshold=0.5)
    assert golden_positions(probable, (), 2) == [1, 3]


def test_top_k_counts_what_is_named() -> None:
    found = predictions(np.array([[0.5, 0.4, NOT_NAMED], [NOT_NAMED, 0.1, 0.8]]))
    assert golden_positions(found, (), 1) == [1]
    assert golden_positions(found, (), 2) == [0, 1]


def test_the_limit_is_what_was_measured_less_twice_the_difference() -> None:
    random = np.random.default_rng(0)
    reference = predictions(random.normal(size=(200, 5)))
    engine = predictions(reference.logits + 0.1 * random.normal(size=(200, 5)))
    accuracy = measure_accuracy("int8", engine, reference)
    assert accuracy.sqnr_db == pytest.approx(20, abs=0.5)
    assert sqnr_limit(accuracy) == pytest.approx(accuracy.sqnr_db - 6)
    assert sqnr_limit(measure_accuracy("same", reference, reference)) == 40
    assert sqnr_limit(dataclasses.replace(accuracy, sqnr_db=120.0)) == 40
    assert sqnr_limit(dataclasses.replace(accuracy, output="probabilities", sqnr_db=None)) is None
    twice = dataclasses.replace(reference, logits=2 * engine.logits - reference.logits)
    limits = SelfTest(golden_n=200, top1_changed_max=200, sqnr_db_min=sqnr_limit(accuracy))
    assert self_test_of(measure_accuracy("x", engine, reference), limits).verdict == "PASS"
    assert self_test_of(measure_accuracy("x", reference, reference), limits).verdict == "PASS"
    other = self_test_of(measure_accuracy("x", twice, reference), limits)
    assert (other.verdict, list(other.failures())) == (
        "FAIL",
        [f"SQNR {other.sqnr_db:.1f} dB, at least {limits.sqnr_db_min:.1f} dB is demanded"],
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"golden_images_n": 19}, "19 of 20 golden images were run"),
        ({"nan_count": 1}, "1 images have logits that are not finite"),
        ({"top1_changed_n": 1}, "1 of 20 images have another top-1 than the reference, at most 0 may"),
        ({"crash": "SIGSEGV"}, "the engine took its process down: SIGSEGV"),
    ],
)
def test_each_limit_is_told(found: dict[str, Any], words: str) -> None:
    good = SelfTest(golden_n=20, golden_images_n=20)
    assert good.verdict == "PASS"
    bad = dataclasses.replace(good, **found)
    assert (bad.verdict, list(bad.failures())) == ("FAIL", [words])
