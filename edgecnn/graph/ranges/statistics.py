"""What one pass keeps of a tensor: counts in floating-point bins, and per-channel extremes and means.

A bin is the upper half of a float32: sign, exponent, seven bits of mantissa. So bins are everywhere at most 0.8 %
wide, they never have to grow with the data, and counts of separate runs add up exactly, in any order. Channel sums
are kept in fixed point for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LOWEST = (127 - 30) << 7  # what is smaller than 2^-30 is counted with zero, in bin 0
INFINITE = 255 << 7
BINS = INFINITE - LOWEST
SUM_UNIT = 2.0**-24  # of the fixed-point channel sums
CHUNK = 1 << 18


def bin_edges() -> Floats:
    """The [BINS + 1] edges of the bins of |x|; the first is 0, the last infinite."""
    bits = (np.arange(LOWEST, INFINITE + 1, dtype=np.uint32) << 16).astype(np.uint32)
    edges = bits.view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return edges


@dataclass
class TensorStatistics:
    """One tensor over the calibration images. `positive` and `negative` count |x| in the bins of `bin_edges()`
    (`negative` is None while no value was below zero); the channel arrays are [channels] of axis 1."""

    name: str
    positive: Counts
    negative: Counts | None
    channel_low: npt.NDArray[np.float32]
    channel_high: npt.NDArray[np.float32]
    channel_sum: Counts  # of the mean over an image, in SUM_UNIT
    images: int = 0

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
        planes = batch.reshape(batch.shape[0], batch.shape[1], -1)
        low, high = planes.min(axis=2), planes.max(axis=2)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("not finite")
        np.minimum(self.channel_low, low.min(axis=0), out=self.channel_low)
        np.maximum(self.channel_high, high.max(axis=0), out=self.channel_high)
        means = planes.mean(axis=2, dtype=np.float32).astype(np.float64)
        self.channel_sum += np.rint(means / SUM_UNIT).astype(np.int64).sum(axis=0)
        self.images += len(batch)
        counts = _upper_half_counts(batch)
        self.positive += _binned(counts[:INFINITE])
        below = counts[0x8000 : 0x8000 + INFINITE]
        if float(low.min()) < 0 and below.any():
            binned = _binned(below)
            self.negative = binned if self.negative is None else self.negative + binned

    def merge(self, other: TensorStatistics) -> None:
        """Take in what another process saw; exact, whatever the order."""
        self.positive = self.positive + other.positive
        if other.negative is not None:
            self.negative = other.negative if self.negative is None else self.negative + other.negative
        self.channel_low = np.minimum(self.channel_low, other.channel_low)
        self.channel_high = np.maximum(self.channel_high, other.channel_high)
        self.channel_sum = self.channel_sum + other.channel_sum
        self.images += other.images


@dataclass
class Ranges:
    """The statistics of every tensor that a placement may quantise, and what they were collected from."""

    graph_sha256: str
    data: str
    data_sha256: str
    images: int
    tensors: dict[str, TensorStatistics]

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


def constant_tensors(tensors: Mapping[str, TensorStatistics]) -> list[str]:
    """Tensors that had one and the same value everywhere: a scale cannot be taken from them."""
    return [name for name, s in tensors.items() if s.low == s.high]


def _upper_half_counts(batch: npt.NDArray[np.float32]) -> Counts:
    """Counts [65536] of the upper 16 bits of every value, in pieces that stay in the cache."""
    keys = np.ascontiguousarray(batch).reshape(-1).view(np.uint16)[1::2]
    total = np.zeros(1 << 16, np.int64)
    piece = np.empty(min(CHUNK, len(keys)), np.intp)
    for start in range(0, len(keys), CHUNK):
        part = keys[start : start + CHUNK]
        held = piece[: len(part)]
        np.copyto(held, part)
        total += np.bincount(held, minlength=1 << 16)
    return total


def _binned(counts: Counts) -> Counts:
    binned: Counts = counts[LOWEST:].copy()
    binned[0] += counts[:LOWEST].sum()
    return binned
