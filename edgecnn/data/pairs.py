"""Pairs of images, their distances as embeddings, and what a threshold makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgecnn.data.dataset import Labels

if TYPE_CHECKING:
    from edgecnn.session import Array

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_CHUNK = 1 << 16  # pairs whose embeddings are gathered at once


@dataclass(frozen=True)
class Pairs:
    """`first` and `second` [P] are positions of images, `same` [P] whether their classes are."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    same: Bools

    def __len__(self) -> int:
        return len(self.first)


def all_pairs(labels: Labels) -> Pairs:
    """Each two images once."""
    first, second = np.triu_indices(len(labels), 1)
    return Pairs(first.astype(np.int64), second.astype(np.int64), labels[first] == labels[second])


def squared_distances(embeddings: Array, pairs: Pairs) -> Floats:
    """||f(a) - f(b)||^2 of each pair of rows of `embeddings` [N, D] (Schroff et al., arXiv:1503.03832); NaN where one
    of the two is not finite."""
    values, found = embeddings.astype(np.float64), np.empty(len(pairs))
    values[~np.isfinite(values).all(axis=1)] = np.nan
    for start in range(0, len(pairs), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = np.square(values[pairs.first[part]] - values[pairs.second[part]]).sum(axis=1)
    return found


def choose_threshold(distances: Floats, same: Bools) -> tuple[float, float]:
    """(threshold, accuracy) where the mean of the shares of same pairs accepted and of different ones refused is
    highest, 0 to 1; of equally good thresholds the middle. There are pairs of both kinds."""
    order = np.argsort(distances, kind="stable")
    values, right = distances[order], same[order]
    accepted = np.concatenate([[0.0], np.cumsum(right) / right.sum()])
    refused = 1 - np.concatenate([[0.0], np.cumsum(~right) / (~right).sum()])
    score = (accepted + refused) / 2
    between = np.concatenate([[True], values[1:] > values[:-1], [True]])  # equal distances are decided alike
    best = np.flatnonzero(between & (score >= score[between].max() - 1e-12))
    cut = int(best[len(best) // 2])
    ends = values[max(cut - 1, 0)], values[min(cut, len(values) - 1)]
    return float(np.mean(ends)), float(score[cut])


@dataclass(frozen=True)
class Rates:
    """Of weighted pairs, each 0 to 1: the area under the ROC curve, which is how probable it is that a same pair is
    nearer than a different one (Mann and Whitney 1947; ties count half), the share of same pairs accepted at each rate
    of false accepts, and the mean of the shares of same pairs accepted and of different ones refused at the
    threshold."""

    auc: float
    tar: tuple[float, ...]
    accuracy: float


class SortedPairs:
    """Distances put in order once, for many weightings of the pairs; `same` and `different` are positions among
    them."""

    def __init__(
        self,
        distances: Floats,
        same: npt.NDArray[np.int64],
        different: npt.NDArray[np.int64],
        threshold: float,
    ) -> None:
        self._same = same[np.argsort(distances[same], kind="stable")]
        self._different = different[np.argsort(distances[different], kind="stable")]
        self._near, self._far = distances[self._same], distances[self._different]
        self._below = np.searchsorted(self._far, self._near, "left")
        self._up_to = np.searchsorted(self._far, self._near, "right")
        self._cuts = [int(np.searchsorted(values, threshold, "right")) for values in (self._near, self._far)]

    def measure(self, weights: Floats | None, fars: tuple[float, ...]) -> Rates:
        """Rates with a weight for each pair; None: each counts once."""
        near = np.ones(len(self._near)) if weights is None else weights[self._same]
        far = np.ones(len(self._far)) if weights is None else weights[self._different]
        accepted, sums = (np.concatenate([[0.0], np.cumsum(values)]) for values in (near, far))
        beyond = sums[-1] - (sums[self._below] + sums[self._up_to]) / 2
        right = accepted[self._cuts[0]] / accepted[-1], 1 - sums[self._cuts[1]] / sums[-1]
        return Rates(
            auc=float((near * beyond).sum() / (accepted[-1] * sums[-1])),
            tar=tuple(self._accepted_at(rate, sums, accepted) for rate in fars),
            accuracy=float(sum(right) / 2),
        )

    def _accepted_at(self, rate: float, sums: Floats, accepted: Floats) -> float:
        """Same pairs nearer than the first different one that would be a false accept too many."""
        k = int(np.searchsorted(sums, rate * sums[-1] * (1 + 1e-12), "right")) - 1
        cut = int(np.searchsorted(self._near, self._far[k], "left")) if k < len(self._far) else len(self._near)
        return float(accepted[cut] / accepted[-1])
