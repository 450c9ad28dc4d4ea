"""Statistics behind the verdicts; numpy only.

A comparison on the same images is McNemar's table: of `n` images, `lost` are right in the reference and wrong in the
engine, `gained` the other way round. The drop is (lost - gained) / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z95 = 1.959963984540054  # two-sided 95 %
MOST_IMAGES = 10**9  # no test set is larger: a question that needs more is not settled by images


def drop_interval(lost: float, gained: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Two-sided score interval for the drop, as proportions, 95 % by default (Tango, Statistics in Medicine 17,
    1998)."""
    low, high = drop_intervals(np.array([lost]), np.array([gained]), n, z)
    return float(low[0]), float(high[0])


def drop_intervals(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: float | Floats, z: float = Z95
) -> tuple[Floats, Floats]:
    """`drop_interval` of many tables at once, of `n` images all, or each of its own.

    The interval holds the drops that the score test does not reject; the score falls with the drop, so bisection
    finds both ends to within rounding.
    """
    b, c = np.asarray(lost, np.float64), np.asarray(gained, np.float64)
    observed = (b - c) / n

    def bisect(inner: Floats, outer: Floats) -> Floats:
        for _ in range(52):
            middle = (inner + outer) / 2
            inside = np.abs(_score(b, c, n, middle)) <= z
            inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
        return outer

    return bisect(observed, np.full_like(observed, -1.0)), bisect(observed, np.full_like(observed, 1.0))


def _score(b: Floats, c: Floats, n: float | Floats, drop: Floats) -> Floats:
    """Tango's score statistic: the constrained maximum likelihood estimate of P(gained) solves a quadratic."""
    linear = -b - c + (2 * n - b + c) * drop
    constant = -c * drop * (1 - drop)
    root = np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        # the second form where the first would cancel
        gained = np.where(linear <= 0, (root - linear) / (4 * n), -2 * constant / (root + linear))
        gained = np.nan_to_num(gained, nan=0.0)
        excess = b - c - n * drop
        variance = np.maximum(n * (2 * gained + drop * (1 - drop)), 0.0)
        score: Floats = np.where(excess == 0, 0.0, excess / np.sqrt(variance))
    return score


def mcnemar_p(lost: int, gained: int) -> float:
    """Exact two-sided p-value of McNemar's test: the smaller count against Binomial(lost + gained, 1/2)."""
    discordant, smaller = lost + gained, min(lost, gained)
    if lost == gained:
        return 1.0
    term = tail = 1
    for k in range(smaller):
        term = term * (discordant - k) // (k + 1)
        tail += term
    share: float = 2 * tail / 2**discordant
    return min(1.0, share)


def wilson_interval(count: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Two-sided interval of a proportion, 95 % by default (Wilson, JASA 22, 1927)."""
    share, z2 = count / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if count == 0 else max(0.0, middle - half)
    return low, 1.0 if count == n else min(1.0, middle + half)


def images_for_drop(lost: int, gained: int, n: int, margin: float) -> int | None:
    """How many images would settle whether the drop exceeds `margin` (a proportion) if the shares of lost and gained
    images stay as they are; None when no number would."""

    def settled(size: int) -> bool:
        low, high = drop_interval(lost * size / n, gained * size / n, size)
        return high <= margin or low > margin

    return _smallest(settled, n)


def images_for_share(count: int, n: int, floor: float) -> int | None:
    """How many images would settle whether a share (`count` of `n` so far) is below `floor`; None when no number."""

    def settled(size: int) -> bool:
        low, high = wilson_interval(count * size / n, size)
        return low >= floor or high < floor

    return _smallest(settled, n)


def difference_interval(count: float, n: float, other_count: float, other_n: float) -> tuple[float, float]:
    """Two-sided 95 % interval of the difference of two shares of different images, count / n - other_count / other_n,
    as proportions (the hybrid score interval, method 10 of Newcombe, Statistics in Medicine 17, 1998)."""
    share, other = count / n, other_count / other_n
    (low, high), (other_low, other_high) = wilson_interval(count, n), wilson_interval(other_count, other_n)
    below, above = math.hypot(share - low, other_high - other), math.hypot(high - share, other - other_low)
    return share - other - below, share - other + above


def images_for_difference(count: int, n: int, other_count: int, other_n: int, margin: float) -> int | None:
    """How many images on either side would settle whether a difference of shares exceeds `margin` if both shares stay
    as they are; None when no number would."""

    def settled(size: int) -> bool:
        scaled = round(count * size / n), size, round(other_count * size / other_n), size
        low, high = difference_interval(*scaled)
        return high <= margin or low > margin

    return _smallest(settled, max(n, other_n))


def binomial_p_at_most(count: int, n: int, share: float) -> float:
    """P(X <= count) of Binomial(n, share): how probable so few are where each succeeds with probability `share`."""
    if count >= n or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    if count > n * share:  # the other tail: the terms near `count` may be smaller than the smallest number
        return 1.0 - binomial_p_at_most(n - count - 1, n, 1 - share)
    total, term = 0.0, math.exp(_log_binomial(n, count) + count * math.log(share) + (n - count) * math.log1p(-share))
    for k in range(count, -1, -1):
        total += term
        step = k / (n - k + 1) * (1 - share) / share
        if step < 1 and term < 1e-17 * total:
            break
        term *= step
    return min(1.0, total)


def holm_rejects(p_values: Sequence[float], level: float) -> list[bool]:
    """Which of several hypotheses are rejected if at most `level` is to be the probability of rejecting any that holds
    (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    rejected = [False] * len(p_values)
    for rank, k in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        if p_values[k] > level / (len(p_values) - rank):
            break
        rejected[k] = True
    return rejected


def guess_p(truth: npt.NDArray[np.int64], said: npt.NDArray[np.int64]) -> float:
    """How probable it is that answers with the same frequencies, given without a look at the images, meet `truth` at
    least as often as `said` does, both [N] of classes from 0 (-1 is no class, and meets nothing).

    The smaller of two one-sided tests: Fisher's exact one (Statistical Methods for Research Workers, 1934) on the most
    frequent class against all others, which is exact for two classes; and a Poisson bound on the matches outside that
    class, which serves many. A constant answer has 1.
    """
    n, most = len(truth), int(np.bincount(truth[truth >= 0]).argmax()) if (truth >= 0).any() else 0
    ours, theirs = truth != most, said != most
    fisher = _fisher(n, int(ours.sum()), int(theirs.sum()), int((ours & theirs).sum()))
    size = int(max(truth.max(), said.max())) + 2
    counts = [np.bincount(x + 1, minlength=size).astype(np.float64) for x in (truth, said)]
    rest = np.arange(size) > 0
    rest[most + 1] = False
    matches = int(((truth == said) & ours & (truth >= 0)).sum())
    return min(fisher, _poisson_tail(float((counts[0] * counts[1])[rest].sum()) / n, matches))


def _fisher(n: int, row: int, column: int, both: int) -> float:
    """P(X >= both) of the hypergeometric distribution: `both` in common of `row` and `column` marked ones of `n`."""
    top = min(row, column)
    whole = _log_binomial(n, column)
    logs = [_log_binomial(row, k) + _log_binomial(n - row, column - k) - whole for k in range(both, top + 1)]
    return min(1.0, sum(math.exp(value) for value in logs if value > -700)) if both > 0 else 1.0


def _log_binomial(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _poisson_tail(mean: float, count: int) -> float:
    """P(X >= count); Chernoff's bound far from the mean, where the sum would lose all its digits."""
    if count <= mean or count == 0:
        return 1.0
    return min(1.0, math.exp(count - mean + count * math.log(mean / count))) if mean > 0 else 0.0


def images_to_tell(p: float, n: int, level: float) -> int | None:
    """How many images would bring a p-value (of `n` so far) below `level` if the shares stay as they are: its logarithm
    falls with their number. None when no number would."""
    if p >= 0.5:
        return None
    return n if p < level else math.ceil(n * math.log(level) / math.log(p)) + 1


def _smallest(settled: Callable[[int], bool], start: int) -> int | None:
    low, high = start, start
    while not settled(high):
        low, high = high, high * 2
        if high > MOST_IMAGES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def percentile(ascending: npt.NDArray[Any], percent: float) -> float:
    """trtexec's percentile of sorted samples: no interpolation, but for the median of an even number."""
    n = len(ascending)
    if percent == 50:
        return float((ascending[(n - 1) // 2] + ascending[n // 2]) / 2)
    return float(ascending[max(n - 1 - int((100 - percent) * n / 100), 0)])


def samples_for_percentile(percent: float) -> int:
    """The fewest samples that carry a percentile: MLPerf's early-stopping rule at 99 % confidence with one sample above
    it (64 for p90, 662 for p99)."""
    q, n = percent / 100, 1
    while q**n + n * (1 - q) * q ** (n - 1) > 0.01:
        n += 1
    return n


def percentile_interval(ascending: npt.NDArray[Any], percent: float) -> tuple[float, float | None]:
    """Distribution-free 95 % interval of a percentile from order statistics; the upper end is None where the samples
    do not reach that far."""
    n, q = len(ascending), percent / 100
    probability, below, lower, upper = (1 - q) ** n, 0.0, 0, None
    for k in range(n + 1):  # P(exactly k samples lie below the percentile), by recurrence in log space
        if k:
            probability = math.exp(
                math.lgamma(n + 1)
                - math.lgamma(k + 1)
                - math.lgamma(n - k + 1)
                + k * math.log(q)
                + (n - k) * math.log1p(-q)
            )
        below += probability
        if below <= 0.025:
            lower = k + 1
        if below >= 0.975:
            upper = k
            break
    low = float(ascending[max(lower - 1, 0)])
    return low, None if upper is None or upper >= n else float(ascending[upper])


def mean_half_width(values: Sequence[float]) -> float:
    """Half of the two-sided 95 % interval of the mean of at least two values, by Student's t; its quantile is within
    1 % (expansion by Cornish and Fisher), exact up to four degrees of freedom."""
    degrees = len(values) - 1
    exact = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
    first, second = (Z95**3 + Z95) / 4, (5 * Z95**5 + 16 * Z95**3 + 3 * Z95) / 96
    quantile = exact.get(degrees, Z95 + first / degrees + second / degrees**2)
    return float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
