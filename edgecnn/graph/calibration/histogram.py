"""What one pass keeps of a tensor: counts in floating-point bins, and per-channel extremes and means.

A bin is the upper half of a float32: sign, exponent, seven bits of mantissa. So bins are everywhere at most 0.8 %
wide, they never have to grow with the data, and counts of separate runs add up exactly, in any order. Channel sums
are kept in fixed point for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LOWEST = (127 - 30) << 7  # what is smaller than 2^-30 is counted with zero, in bin 0
INFINITE = 255 << 7
BINS = INFINITE - LOWEST
_SIGN = 1 << 15
SUM_UNIT = 2.0**-24  # of the fixed-point channel sums
CHUNK = 1 << 18  # values taken at once: fewer stay in the nearest cache, but threads then fight for the interpreter
_ZERO_BINS = np.arange(CHUNK, dtype=np.uint32) % 64


def bin_edges() -> Floats:
    """The [BINS + 1] edges of the bins of |x|; the first is 0, the last infinite."""
    bits = (np.arange(LOWEST, INFINITE + 1, dtype=np.uint32) << 16).astype(np.uint32)
    edges = bits.view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return edges


@dataclass
class TensorStatistics:
    """One tensor over the calibration images. `positive` and `negative` count |x| in the bins of `bin_edges()`
    (`negative` is None while no value was below zero); the channel arrays are [channels] of axis 1.

    `scale` is that of symmetric INT8 where a calibration cache gave it: the values themselves were not seen then, and
    the channel arrays are [1]."""

    name: str
    positive: Counts
    negative: Counts | None
    channel_low: npt.NDArray[np.float32]
    channel_high: npt.NDArray[np.float32]
    channel_sum: Counts  # of the mean over an image, in SUM_UNIT
    images: int = 0
    scale: float | None = None

    @property
    def low(self) -> float:
        """The smallest value seen."""
        return float(self.channel_low.min())

    @property
    def high(self) -> float:
        """The largest value seen."""
        return float(self.channel_high.max())

    @property
    def largest(self) -> float:
        """The largest absolute value seen."""
        return max(abs(self.low), abs(self.high))

    @property
    def channel_mean(self) -> Floats:
        """Mean of each channel over positions and images."""
        return np.asarray(self.channel_sum * (SUM_UNIT / max(self.images, 1)))

    @property
    def magnitudes(self) -> Counts:
        """Counts of |x|."""
        return self.positive if self.negative is None else self.positive + self.negative

    @property
    def count(self) -> int:
        """How many values were seen."""
        return int(self.magnitudes.sum())

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Take in a batch [N, C, ...]; raises `ValueError` when a value of it is NaN or infinite."""
        images, channels = batch.shape[:2]
        planes = batch.reshape(images, channels, -1)
        low, high = np.empty((2, channels), np.float32)
        means = np.empty((images, channels), np.float32)
        step = max(1, CHUNK // (images * planes.shape[2]))
        for first in range(0, channels, step):
            some = slice(first, first + step)
            part = planes[:, some]
            low[some] = part.min(axis=0).min(axis=1)
            high[some] = part.max(axis=0).max(axis=1)
            if not (np.isfinite(low[some]).all() and np.isfinite(high[some]).all()):
                raise ValueError("not finite")
            part.mean(axis=2, dtype=np.float32, out=means[:, some])
            self._count(part)
        np.minimum(self.channel_low, low, out=self.channel_low)
        np.maximum(self.channel_high, high, out=self.channel_high)
        self.channel_sum += np.rint(means.astype(np.float64) / SUM_UNIT).astype(np.int64).sum(axis=0)
        self.images += images

    def _count(self, values: npt.NDArray[np.float32]) -> None:
        """Count `values`, none of them NaN or infinite, by their upper 16 bits: those are sign and bin.

        What ends in bin 0 (zero: half of all values after a Relu) is spread over patterns below `LOWEST` first, for
        counting in one place again and again waits each time for the store before. -0.0 is a zero, not a negative.
        """
        halves = np.right_shift(values.view(np.uint32), 16).reshape(-1)
        for start in range(0, len(halves), CHUNK):
            piece = halves[start : start + CHUNK]
            np.maximum(piece, _ZERO_BINS[: len(piece)], out=piece)
            found = np.bincount(piece.astype(np.intp))
            _add_bins(self.positive, found[:INFINITE])
            below = found[_SIGN:]
            if len(below):
                self.positive[0] += below[0]
                below[0] = 0
            if below.any():
                self.negative = np.zeros(BINS, np.int64) if self.negative is None else self.negative
                _add_bins(self.negative, below)

    def merge(self, other: TensorStatistics) -> None:
        """Take in what another process saw; exact, whatever the order."""
        self.positive = self.positive + other.positive
        if other.negative is not None:
            self.negative = other.negative if self.negative is None else self.negative + other.negative
        self.channel_low = np.minimum(self.channel_low, other.channel_low)
        self.channel_high = np.maximum(self.channel_high, other.channel_high)
        self.channel_sum = self.channel_sum + other.channel_sum
        self.images += other.images
        if self.scale is not None and other.scale is not None:
            self.scale = max(self.scale, other.scale)


@dataclass
class Ranges:
    """The statistics of every tensor that a placement may quantize, and what they were collected from."""

    graph_sha256: str
    data: str
    data_sha256: str
    images: int
    tensors: dict[str, TensorStatistics]

    @property
    def imported(self) -> bool:
        """Whether they are the scales of a calibration cache, and no values were seen."""
        return any(s.scale is not None for s in self.tensors.values())

    def merge(self, other: Ranges) -> None:
        """Take in the ranges of the same graph over other images."""
        if other.graph_sha256 != self.graph_sha256 or other.tensors.keys() != self.tensors.keys():
            raise ValueError("ranges of another graph")
        self.images += other.images
        for name, statistics in other.tensors.items():
            self.tensors[name].merge(statistics)


def empty_statistics(name: str, channels: int) -> TensorStatistics:
    """Statistics of no images."""
    return TensorStatistics(
        name=name,
        positive=np.zeros(BINS, np.int64),
        negative=None,
        channel_low=np.full(channels, np.inf, np.float32),
        channel_high=np.full(channels, -np.inf, np.float32),
        channel_sum=np.zeros(channels, np.int64),
    )


def join_statistics(name: str, parts: Sequence[TensorStatistics]) -> TensorStatistics:
    """Statistics of the tensor that holds the channels of all `parts` one after the other."""
    below = [p.negative for p in parts if p.negative is not None]
    return TensorStatistics(
        name=name,
        positive=np.sum([p.positive for p in parts], axis=0),
        negative=np.sum(below, axis=0) if below else None,
        channel_low=np.concatenate([p.channel_low for p in parts]),
        channel_high=np.concatenate([p.channel_high for p in parts]),
        channel_sum=np.concatenate([p.channel_sum for p in parts]),
        images=parts[0].images,
    )


def find_constant_tensors(tensors: Mapping[str, TensorStatistics]) -> list[str]:
    """Tensors that had one and the same value everywhere: a scale cannot be taken from them."""
    return [name for name, s in tensors.items() if s.low == s.high]


def _add_bins(bins: Counts, found: Counts) -> None:
    bins[0] += found[:LOWEST].sum()
    bins[: max(len(found) - LOWEST, 0)] += found[LOWEST:]
