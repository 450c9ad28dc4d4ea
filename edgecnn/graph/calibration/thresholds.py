"""Range methods: a threshold (or an interval) from the counts of one tensor.

Percentiles; the threshold of least squared error; and the one of least Kullback-Leibler divergence (S. Migacz,
"8-bit inference with TensorRT", GTC 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edgecnn.graph.calibration.histogram import BINS, Counts, Floats, TensorStatistics, bin_edges, find_bins

PERCENTILES = (99.9, 99.99, 99.999)
METHODS = ("minmax", "percentile", "entropy", "mse")
DEFAULT_PERCENTILE = 99.99
_ENTROPY_BINS = 2048
_POINTS = 8  # that stand for the values of a bin
_SHRINK = np.linspace(1.0, 0.2, 81)  # thresholds tried, as a share of the largest value


def threshold(statistics: TensorStatistics, method: str, levels: int = 127) -> float:
    """The largest |x| to represent with `levels` steps on each side of zero (one side, if nothing is below it);
    that of a calibration cache by any method."""
    if statistics.scale is not None:
        return 127 * statistics.scale
    if method == "minmax":
        return statistics.largest
    if method == "percentile":
        return percentiles(statistics, (DEFAULT_PERCENTILE,))[0]
    if method == "entropy":
        return entropy_threshold(statistics.magnitudes, statistics.largest, levels)
    if method == "mse":
        errors = squared_errors(statistics.magnitudes, statistics.largest * _SHRINK, levels)
        return float(statistics.largest * _SHRINK[int(np.argmin(errors))])
    raise ValueError(f"no range method {method!r}")


def interval(statistics: TensorStatistics, method: str, levels: int = 255) -> tuple[float, float]:
    """The (low, high) that an unsigned type with a zero point represents; it always holds zero."""
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    if low == 0.0:
        return 0.0, threshold(statistics, method, levels)
    negative = statistics.negative
    if negative is None:  # of what was counted; the smallest value of all was seen all the same
        negative = np.zeros(BINS, np.int64)
        negative[find_bins(np.array([-low]))] = 1
        statistics = replace(statistics, negative=negative)
    if method == "minmax":
        return low, high
    if method == "percentile":
        tail = (1 - DEFAULT_PERCENTILE / 100) * statistics.counted
        return (
            -_tail_edge(_count_above(negative), tail, -low),
            _tail_edge(_count_above(statistics.positive), tail, high),
        )
    if method == "entropy":
        kept = threshold(statistics, method, levels // 2) / statistics.largest
        return low * kept if -low > high else max(low, -statistics.largest * kept), min(high, statistics.largest * kept)
    return _least_squares_interval(statistics, levels)


def percentiles(statistics: TensorStatistics, percents: Sequence[float] = PERCENTILES) -> list[float]:
    """The values below which so many per cent of the counted magnitudes lie; within a bin, linear."""
    above = _count_above(filled_bins(statistics.magnitudes))
    return [_tail_edge(above, (1 - p / 100) * float(above[0]), statistics.largest) for p in percents]


def filled_bins(counts: Counts) -> Counts:
    """The counts up to the last bin that holds anything; at least one."""
    filled = counts != 0
    last = len(counts) - int(np.argmax(filled[::-1]))
    return counts[:last] if filled[last - 1] else counts[:1]


def squared_errors(counts: Counts, thresholds: Floats, levels: int) -> Floats:
    """Sum of squared rounding and clipping errors for each threshold, values spread evenly over their bin."""
    weights = filled_bins(counts).astype(np.float64)
    top = len(weights)
    low = _edges()[:top]
    width = np.maximum(np.minimum(_edges()[1 : top + 1], thresholds.max()) - low, 0.0)
    width[:1] = 0.0
    middles = low + width / 2
    squares = float((weights * (middles**2 + width**2 * (1 - _POINTS**-2) / 12)).sum())
    steps = np.maximum(thresholds, 1e-30)[:, None] / levels
    ends = steps * (np.arange(levels) + 0.5)  # where each rounded value ends
    bins = np.minimum(find_bins(ends), top - 1)
    begin, wide = low[bins], width[bins]
    share = np.ceil((ends - begin) / np.maximum(wide, 1e-300) * _POINTS - 0.5)
    share = np.minimum(np.maximum(share, 0), _POINTS) / _POINTS  # of the points of that bin that are before it
    mass, first = _cumulated(weights), _cumulated(weights * middles)
    partly = weights[bins] * share
    mass = _between(mass[bins] + partly, mass[-1])
    first = _between(first[bins] + partly * (begin + share * wide / 2), first[-1])
    rounded = steps * np.arange(levels + 1)  # sum w (p - r)^2 is sum w p^2 - r (2 sum w p - r sum w) of each of them
    errors: Floats = np.maximum(squares - (rounded * (2 * first - rounded * mass)).sum(axis=1), 0.0)
    return errors


def entropy_threshold(counts: Counts, largest: float, levels: int) -> float:
    """The threshold whose quantized distribution diverges least from the clipped one.

    `levels` + 1 quantized values are compared with 2048 bins of equal width up to `largest`.
    """
    histogram = _even_bins(filled_bins(counts), largest)
    histogram[0] = 0.0  # zeros are exact whatever the threshold, and would drown everything else
    groups = levels + 1
    stops = np.arange(groups, _ENTROPY_BINS + 1, 16)
    best = int(stops[int(np.argmin(divergences(histogram, stops, groups)))])
    return largest * (best + 0.5) / _ENTROPY_BINS if best < _ENTROPY_BINS else largest


@lru_cache(maxsize=1)
def _edges() -> Floats:
    return bin_edges()


def _count_above(counts: Counts) -> Counts:
    """How many values are in each bin or a higher one."""
    return np.cumsum(counts[::-1])[::-1]


def _tail_edge(above: Counts, tail: float, largest: float) -> float:
    k = len(above) - int(np.searchsorted(above[::-1], tail, side="right"))
    if k == 0:
        return largest
    k -= 1  # the bin in which the tail begins
    inside = (above[k] - tail) / max(int(above[k] - (above[k + 1] if k + 1 < len(above) else 0)), 1)
    low, high = _edges()[k], min(float(_edges()[k + 1]), largest)
    return float(min(low + (high - low) * min(max(inside, 0.0), 1.0), largest))


def _even_bins(counts: Counts, largest: float) -> Floats:
    """Counts in 2048 bins of equal width, by linear interpolation of the cumulated counts."""
    edges = np.minimum(_edges()[: len(counts) + 1], largest)
    total = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    total[0] = 0.0
    even = np.interp(np.linspace(0.0, largest, _ENTROPY_BINS + 1), edges, total)
    even[0] = 0.0
    return np.diff(even)


def divergences(histogram: Floats, stops: npt.NDArray[np.int64], groups: int) -> Floats:
    """For each of `stops`, the divergence in nats of the histogram clipped to so many bins from its quantized form:
    `groups` runs of bins, in each of which the bins that hold anything share its mean. What lies in a bin that the
    quantized form has empty costs 10. Infinite where nothing is left. All from cumulated sums."""
    below, own = _cumulated(histogram), _cumulated(_x_log_x(histogram))
    filled = _cumulated((histogram > 0).astype(np.float64))
    first = -(-np.arange(groups + 1) * stops[:, None] // groups)  # where each run begins, and the last one ends
    mass, count = np.diff(below[first]), np.diff(filled[first])
    level = np.maximum(mass, 1e-300) / np.maximum(count, 1)
    inside, total = np.maximum(below[stops], 1e-300), max(float(below[-1]), 1e-300)
    clipped, last = below[-1] - below[stops], histogram[stops - 1]
    scale = np.log(inside) - np.log(total)
    nats = own[stops] - (mass * np.log(level)).sum(axis=1) + inside * scale
    at_last = (last + clipped) * (scale - np.log(level[:, -1])) + _x_log_x(last + clipped)
    at_last -= last * (scale - np.log(level[:, -1])) + _x_log_x(last)  # the clipped values join the last bin
    nats += np.where(last > 0, at_last, 10.0 * clipped)
    return np.where(below[stops] > 0, nats / total, np.inf)


def _cumulated(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _between(below: Floats, total: float) -> Floats:
    """What lies between the ends of each row, from what is below each of them, and of all."""
    made: Floats = np.diff(below, prepend=0.0, append=total)
    return made


def _x_log_x(x: Floats) -> Floats:
    return x * np.log(np.where(x > 0, x, 1.0))


def _least_squares_interval(statistics: TensorStatistics, levels: int) -> tuple[float, float]:
    """Coordinate descent on both ends over the shared step."""
    assert statistics.negative is not None
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    above = _bin_middles(statistics.positive, statistics.largest)
    below = _bin_middles(statistics.negative, statistics.largest)
    best, chosen = float("inf"), (low, high)
    shrink = _SHRINK[::2]
    for _ in range(2):
        for index in (0, 1):
            for share in shrink:
                ends = (low * share, chosen[1]) if index == 0 else (chosen[0], high * share)
                step = max((ends[1] - ends[0]) / levels, 1e-30)
                error = _interval_error(*above, ends[1], step) + _interval_error(*below, -ends[0], step)
                if error < best:
                    best, chosen = error, ends
    return chosen


def _bin_middles(counts: Counts, largest: float) -> tuple[Floats, Floats]:
    """(middle, count) of the bins that hold anything."""
    used = np.flatnonzero(counts)
    return (_edges()[used] + np.minimum(_edges()[used + 1], largest)) / 2, counts[used].astype(np.float64)


def _interval_error(middle: Floats, counts: Floats, limit: float, step: float) -> float:
    clipped = np.maximum(middle - limit, 0.0)
    inside = np.minimum(middle**2, step**2 / 12)
    return _weighted_sum(counts, np.where(clipped > 0, clipped**2, inside))


def _weighted_sum(weights: Floats, values: Floats) -> float:
    """Without BLAS, whose threads wait for each other at every one of many short sums."""
    return float(np.einsum("i,i->", weights, values))
