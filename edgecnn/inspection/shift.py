"""How far two samples of a stream lie apart, and whether sampling says so; numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecnn.statistics import MOST_IMAGES, Floats

Counts = npt.NDArray[np.int64]
DRAWS, DRAWN_AT_ONCE = 2000, 100  # of a test by permutation: p-values down to 0.0005


class Shift(NamedTuple):
    """How far two samples lie apart (0 to 1), and how probable that is where both are of one distribution."""

    distance: float
    p: float
    moved: tuple[int, ...] = ()


def distribution_shift(ours: Counts, theirs: Counts, n: tuple[float, float]) -> Shift:
    """Two histograms [K] over the same ordered bins: the distance of Kolmogorov and Smirnov, its p-value by permutation
    of the rows, ties and small counts included. `n` are the independent rows that either one is worth; where they are
    fewer than its counts, the samples are drawn anew with so many."""

    def distance(first: Floats, second: Floats) -> Floats:
        found: Floats = np.abs(np.cumsum(first - second, axis=-1)).max(axis=-1)
        return found

    observed = distance(_shares(ours), _shares(theirs))
    (p,) = _permutation_p(ours, theirs, n, lambda a, b: distance(a, b)[..., None], observed[None])
    return Shift(float(observed), p)


def share_shift(ours: Counts, theirs: Counts, n: tuple[float, float]) -> Shift:
    """Counts [K] of classes in two samples, with the classes of which `moved` tells the index: those whose share moved
    by more than the largest move of any class in 95 % of permutations (Westfall and Young, 1993).

    The p-value is that of many small moves (chi-square of homogeneity) or of one large (the largest standardized move),
    whichever is smaller, times two, by permutation as in `distribution_shift`; the distance is the total variation.
    """
    pooled = (ours + theirs) / max(ours.sum() + theirs.sum(), 1)
    spread = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-30) * (1 / n[0] + 1 / n[1]))
    weight = np.where(pooled > 0, 1 / np.maximum(pooled, 1e-30), 0.0)

    def both(first: Floats, second: Floats) -> Floats:
        moves = first - second
        return np.stack([(moves * moves * weight).sum(axis=-1), (np.abs(moves) / spread).max(axis=-1)], axis=-1)

    moves = _shares(ours) - _shares(theirs)
    drawn: list[Floats] = []
    observed = both(_shares(ours), _shares(theirs))
    many, one = _permutation_p(ours, theirs, n, both, observed, drawn)
    limit = np.quantile(np.concatenate(drawn)[:, 1], 0.95) if drawn else math.inf
    moved = np.flatnonzero(np.abs(moves) / spread > limit).tolist() if one <= 0.05 else []
    return Shift(float(np.abs(moves).sum() / 2), min(1.0, 2 * min(many, one)), tuple(moved))


def resolvable_distance(n: tuple[float, float], level: float) -> float:
    """From which distance on two samples of so many independent rows are told apart by Kolmogorov and Smirnov's test at
    `level` (its asymptotic form)."""
    return min(1.0, math.sqrt(-math.log(level / 2) / 2 * (1 / n[0] + 1 / n[1])))


def _shares(counts: Counts) -> Floats:
    shares: Floats = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    return shares


def _permutation_p(
    ours: Counts,
    theirs: Counts,
    n: tuple[float, float],
    statistic: Callable[[Floats, Floats], Floats],
    observed: Floats,
    drawn: list[Floats] | None = None,
) -> tuple[float, ...]:
    """Of each statistic [..., S] of two rows of shares [..., K] the p-value. What is clearly above every level after
    the first draws is not drawn further."""
    rng, pooled = np.random.default_rng(0), ours + theirs
    sizes, total = (int(ours.sum()), int(theirs.sum())), int(pooled.sum())
    exact = n[0] >= sizes[0] and n[1] >= sizes[1] and total < MOST_IMAGES
    fewer = [max(1, round(min(independent, size))) for independent, size in zip(n, sizes, strict=True)]
    above, draws = np.zeros(len(observed)), 0
    while draws < DRAWS and not (draws and (above >= draws / 4).all()):
        if exact:
            first = rng.multivariate_hypergeometric(pooled, sizes[0], DRAWN_AT_ONCE, method="marginals")
            second = pooled - first
        else:
            first, second = (rng.multinomial(size, pooled / total, DRAWN_AT_ONCE) for size in fewer)
        found = statistic(_shares(first), _shares(second))
        if drawn is not None:
            drawn.append(found)
        above += (found >= observed * (1 - 1e-12)).sum(axis=0)
        draws += DRAWN_AT_ONCE
    return tuple(float(k + 1) / (draws + 1) for k in above)


class DesignEffect:
    """By what factor rows that follow each other, as those of a video, are worth fewer than independent ones: Rao and
    Scott's design effect (JASA 76, 1981), estimated from the chi-square between neighbors.

    Histograms [K] of successive parts are added one by one; neighbors are compared and joined, and so again (the
    blocking of Flyvbjerg and Petersen, J. Chem. Phys. 91, 1989), in memory that grows with the logarithm of their
    number. A lasting change in the middle counts in one pair of each length.
    """

    LEAST_PAIRS, FEWEST_PAIRS = 16, 2
    ALIKE = 1.5

    def __init__(self) -> None:
        self._levels: list[tuple[Counts | None, float, float, int]] = []
        self._n, self._parts = 0, 0

    def add(self, part: Counts) -> None:
        """The next part, as counts [K]."""
        self._n, self._parts = self._n + int(part.sum()), self._parts + bool(part.any())
        for level in range(len(self._levels) + 1):
            waiting, found, expected, pairs = self._levels[level] if level < len(self._levels) else (None, 0.0, 0.0, 0)
            if waiting is None:
                self._levels[level : level + 1] = [(part, found, expected, pairs)]
                return
            square, mean = _homogeneity(waiting, part)
            self._levels[level] = None, found + square, expected + mean, pairs + (mean > 0)
            part = waiting + part

    @property
    def factor(self) -> float:
        """The largest over the lengths of which there are pairs enough, 1 at least; where that is clearly more, those
        of few pairs count too, for what is alike may be longer. Of too few parts each is taken for one row."""
        ratios = [(found / mean, pairs) for _, found, mean, pairs in self._levels if pairs >= self.FEWEST_PAIRS]
        factor = max((ratio for ratio, pairs in ratios if pairs >= self.LEAST_PAIRS), default=None)
        if factor is None:
            return max(1.0, self._n / max(self._parts, 1))
        return max(1.0, factor if factor < self.ALIKE else max(ratio for ratio, _ in ratios))


def _homogeneity(ours: Counts, theirs: Counts) -> tuple[float, float]:
    """Chi-square of a 2 x K table, and its mean over permutations of the rows."""
    pooled, sizes = (ours + theirs).astype(np.float64), (float(ours.sum()), float(theirs.sum()))
    present, total = pooled > 0, sizes[0] + sizes[1]
    if min(sizes) == 0 or present.sum() < 2:
        return 0.0, 0.0
    moves = (ours / sizes[0] - theirs / sizes[1])[present]
    square = float((moves * moves / pooled[present]).sum()) * sizes[0] * sizes[1]
    return square, (int(present.sum()) - 1) * total / (total - 1)
