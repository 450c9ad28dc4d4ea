"""Histograms of what an engine said and of what it was shown: of the same size however much is counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edgecnn.results.monitor import LogLine, Network, Position, UncertainImage
from edgecnn.session import Array, class_probabilities, class_scores

Values = npt.NDArray[np.float64]
Histogram = npt.NDArray[np.int64]
KEPT_UNCERTAIN = 10  # images that are named
CONFIDENCE = "confidence"
BOUNDS: dict[str, tuple[float, ...]] = {  # upper bounds of the bins but for the last one, which is open
    CONFIDENCE: (*(k / 20 for k in range(1, 19)), 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999),
    "brightness": tuple(float(k) for k in range(8, 256, 8)),
    "contrast": tuple(float(k) for k in range(4, 128, 4)),
    "sharpness": tuple(round(0.02 * 2 ** (k / 4), 4) for k in range(32)),
    "noise": tuple(round(0.1 * 2 ** (k / 4), 4) for k in range(36)),
}


@dataclass(frozen=True)
class Batch:
    """Rows as they came: logits [N, columns], of each the time (seconds since 1970, UTC; None without one) and the
    image's name ("" without one), and statistics of the input, NaN where there are none."""

    logits: Array
    times: Sequence[float | None]
    images: Sequence[str]
    statistics: Mapping[str, Values] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> Batch:
        """Those rows alone."""
        return Batch(
            self.logits[list(rows)],
            [self.times[k] for k in rows],
            [self.images[k] for k in rows],
            {name: values[list(rows)] for name, values in self.statistics.items()},
        )


@dataclass(frozen=True)
class Tally:
    """How many images there were, of which class, and in which bin of each histogram; sums of the binned values."""

    predicted: Histogram
    histograms: Mapping[str, Histogram]
    sums: Mapping[str, float]
    n: int = 0
    not_finite: int = 0
    backwards: int = 0
    least_certain: tuple[UncertainImage, ...] = ()
    last_time_s: float | None = None

    def __add__(self, other: Tally) -> Tally:
        times = [t for t in (self.last_time_s, other.last_time_s) if t is not None]
        return Tally(
            self.predicted + other.predicted,
            {name: counts + other.histograms[name] for name, counts in self.histograms.items()},
            {name: value + other.sums[name] for name, value in self.sums.items()},
            self.n + other.n,
            self.not_finite + other.not_finite,
            self.backwards + other.backwards,
            least_certain((*self.least_certain, *other.least_certain)),
            max(times, default=None),
        )


def least_certain(images: Sequence[UncertainImage]) -> tuple[UncertainImage, ...]:
    """The first few for a person to look at: without a finite answer, then by their confidence."""
    ranked = sorted(images, key=lambda i: -1.0 if i.confidence is None else i.confidence)
    return tuple(ranked[:KEPT_UNCERTAIN])


def no_tally(network: Network) -> Tally:
    """Nothing counted yet."""
    empty = {name: np.zeros(len(bounds) + 1, np.int64) for name, bounds in BOUNDS.items()}
    return Tally(np.zeros(network.classes, np.int64), empty, dict.fromkeys(BOUNDS, 0.0))


def tally(batch: Batch, network: Network) -> Tally:
    """One batch counted; logits that are not finite are counted as such and predict nothing."""
    finite = np.asarray(np.isfinite(batch.logits).all(axis=1))
    probabilities = class_probabilities(batch.logits[finite], network.threshold, network.output)
    said = class_scores(batch.logits[finite], network.threshold).argmax(axis=1)
    confidence = np.full(len(finite), np.nan)
    confidence[finite] = probabilities[np.arange(len(said)), said]
    predicted = np.full(len(finite), -1)
    predicted[finite] = said
    values = {CONFIDENCE: confidence, **batch.statistics}
    counts, sums = {}, {}
    for name, bounds in BOUNDS.items():
        known = values.get(name, np.empty(0))
        known = known[~np.isnan(known)]
        counts[name] = np.bincount(np.searchsorted(bounds, known), minlength=len(bounds) + 1).astype(np.int64)
        sums[name] = float(known.sum())
    ranked = np.argsort(np.where(finite, confidence, -1.0), kind="stable")
    named = [int(k) for k in ranked if batch.images[k]][:KEPT_UNCERTAIN]
    told = (
        UncertainImage(
            image=batch.images[k],
            predicted=int(predicted[k]) if finite[k] else None,
            confidence=round(float(confidence[k]), 6) if finite[k] else None,
        )
        for k in named
    )
    return Tally(
        np.bincount(said, minlength=network.classes).astype(np.int64),
        counts,
        sums,
        len(finite),
        int((~finite).sum()),
        least_certain=tuple(told),
        last_time_s=max((t for t in batch.times if t is not None), default=None),
    )


def line_of(counted: Tally, hour: str | None, read: Position | None) -> LogLine:
    """As it stands in a log: what is not zero."""
    return LogLine(
        hour=hour,
        n=counted.n,
        not_finite=counted.not_finite,
        backwards=counted.backwards,
        predicted=_sparse(counted.predicted),
        histograms={name: _sparse(bins) for name, bins in counted.histograms.items() if bins.any()},
        sums={name: counted.sums[name] for name, bins in counted.histograms.items() if bins.any()},
        least_certain=counted.least_certain,
        last_time_s=counted.last_time_s,
        read=read,
    )


def tally_of(line: LogLine, network: Network) -> Tally:
    """What a line of a log counts; raises `ValueError` where it contradicts itself."""
    empty = no_tally(network)
    if unknown := {*line.histograms, *line.sums} - BOUNDS.keys():
        raise ValueError(f"histograms of {', '.join(sorted(unknown))}")
    bins = {name: _dense(line.histograms.get(name, {}), len(counts)) for name, counts in empty.histograms.items()}
    predicted = _dense(line.predicted, network.classes)
    finite = line.n - line.not_finite
    if min(line.n, line.not_finite, line.backwards, finite) < 0 or any(b.sum() > line.n for b in bins.values()):
        raise ValueError("counts that do not belong together")
    if not predicted.sum() == bins[CONFIDENCE].sum() == finite:
        raise ValueError(f"{finite} finite answers, of which {predicted.sum()} have a class")
    return replace(
        empty,
        predicted=predicted,
        histograms=bins,
        sums={name: line.sums.get(name, 0.0) for name in BOUNDS},
        n=line.n,
        not_finite=line.not_finite,
        backwards=line.backwards,
        least_certain=line.least_certain,
        last_time_s=line.last_time_s,
    )


def _sparse(counts: Histogram) -> dict[str, int]:
    return {str(k): int(counts[k]) for k in np.flatnonzero(counts)}


def _dense(counts: Mapping[str, int], size: int) -> Histogram:
    made = np.zeros(size, np.int64)
    for key, count in counts.items():
        if not (key.isdecimal() and key.isascii()) or len(key) > 9 or int(key) >= size or not 0 <= count < 1 << 53:
            raise ValueError(f"{count} in bin {key[:20]!r} of {size}")
        made[int(key)] = count
    return made


def median_of(counts: Histogram, bounds: Sequence[float]) -> float | None:
    """The median of binned values, between the bounds of its bin by proportion; None without any."""
    total = int(counts.sum())
    if not total:
        return None
    below = np.cumsum(counts)
    k = int(np.searchsorted(below, total / 2))
    low = bounds[k - 1] if k else 0.0
    high = bounds[k] if k < len(bounds) else low
    inside = (total / 2 - (below[k] - counts[k])) / counts[k]
    return round(low + (high - low) * float(inside), 4) if math.isfinite(high) else low
