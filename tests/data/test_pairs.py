"""Distances, thresholds and curves of pairs, against what counting by hand gives."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.data.pairs import SortedPairs, all_pairs, choose_threshold, squared_distances


def sample(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Distances of pairs, some of them equal, and which are of one class."""
    random = np.random.default_rng(seed)
    same = random.random(n) < 0.4
    return np.round(random.random(n) + ~same * 0.3, 1), same


def curve(distances: np.ndarray, same: np.ndarray, threshold: float = 0.5) -> SortedPairs:
    return SortedPairs(distances, np.flatnonzero(same), np.flatnonzero(~same), threshold)


def test_every_two_images_once_with_the_squared_distance_of_their_rows() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [np.nan, 0.0]], np.float32)
    pairs = all_pairs(np.array([5, 7, 5, 7]))
    assert [*zip(pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist(), strict=True)] == [
        (0, 1, False), (0, 2, True), (0, 3, False), (1, 2, False), (1, 3, True), (2, 3, False),
    ]  # fmt: skip
    found = squared_distances(rows, pairs)
    assert np.allclose(found[[0, 1, 3]], [2.0, 0.8, 0.4])
    assert np.isnan(found[[2, 4, 5]]).all()


@pytest.mark.parametrize("seed", range(5))
def test_area_accuracy_and_true_accepts_are_those_of_counting(seed: int) -> None:
    distances, same = sample(seed)
    near, far = distances[same], distances[~same]
    found = curve(distances, same).measure(None, (0.05, 0.2, 1.0))
    wins = [float(a < b) + 0.5 * float(a == b) for a in near for b in far]
    assert found.auc == pytest.approx(np.mean(wins))
    assert found.accuracy == pytest.approx(((near <= 0.5).mean() + (far > 0.5).mean()) / 2)
    for rate, tar in zip((0.05, 0.2), found.tar, strict=False):
        allowed = [t for t in {0.0, *distances} if (far <= t).mean() <= rate]
        assert tar == pytest.approx(max((near <= t).mean() for t in allowed) if allowed else 0.0)
    assert found.tar[2] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_a_pair_as_often(seed: int) -> None:
    distances, same = sample(seed)
    weights = np.random.default_rng(seed + 9).integers(0, 4, len(same))
    weighted = curve(distances, same).measure(weights.astype(float), (0.1, 0.3))
    repeated = curve(np.repeat(distances, weights), np.repeat(same, weights)).measure(None, (0.1, 0.3))
    assert weighted.auc == pytest.approx(repeated.auc)
    assert weighted.accuracy == pytest.approx(repeated.accuracy)
    assert weighted.tar == pytest.approx(repeated.tar)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_chosen_one(seed: int) -> None:
    distances, same = sample(seed)
    threshold, accuracy = choose_threshold(distances, same)

    def balanced(at: float) -> float:
        return float(((distances[same] <= at).mean() + (distances[~same] > at).mean()) / 2)

    assert accuracy == pytest.approx(balanced(threshold))
    assert accuracy == pytest.approx(max(balanced(at) for at in np.arange(-0.05, 1.5, 0.05)))


def test_between_two_heaps_the_threshold_is_in_the_middle() -> None:
    threshold, accuracy = choose_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False]))
    assert (threshold, accuracy) == (0.5, 1.0)
