"""Weights of an ensemble by the likelihood of the labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgecnn.errors import MeasurementError
from edgecnn.measure.mixture import choose_member_weights, fit_mixture
from edgecnn.measure.predict import Predictions


def test_it_finds_the_likeliest_of_all_mixtures() -> None:
    rng = np.random.default_rng(0)
    likely = rng.beta([1.2, 1, 0.5], [1, 1, 1], (500, 3))
    steps = np.arange(0, 1.001, 0.02)
    grid = [(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if a + b <= 1]
    best = max(grid, key=lambda w: np.log(likely @ w).mean())
    found = fit_mixture(likely)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found, best, atol=0.02)
    assert np.log(likely @ found).mean() >= np.log(likely @ best).mean() - 1e-9


def predictions(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    return Predictions(tuple(map(str, range(len(labels)))), labels, logits.astype(np.float32))


def test_a_member_that_knows_nothing_gets_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    good = np.eye(4)[labels] * 3 + rng.normal(0, 1, (200, 4))
    chosen = choose_member_weights([predictions(good, labels), predictions(-good, labels)], "val")
    assert chosen.weights[0] > 0.99
    assert (chosen.n, chosen.data) == (200, "val")
    assert chosen.log_loss <= min(chosen.equal_log_loss, *chosen.member_log_loss) + 1e-6


def test_too_few_labels_and_what_is_not_finite() -> None:
    labels = np.zeros(120, np.int64)
    known = predictions(np.zeros((120, 2)), labels)
    unknown = predictions(np.zeros((120, 2)), np.where(np.arange(120) < 99, 0, -1))
    with pytest.raises(MeasurementError, match="val: 99 labelled images, and weights are chosen on at least 100"):
        choose_member_weights([unknown, unknown], "val")
    with pytest.raises(MeasurementError, match="not finite"):
        choose_member_weights([known, predictions(np.full((120, 2), np.nan), labels)], "val")
