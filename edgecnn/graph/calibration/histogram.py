"""What one pass keeps of a tensor: counts in floating-point bins, and the extremes of every channel.

A bin is the upper half of a float32: sign, exponent, seven bits of mantissa. So bins are everywhere at most 0.8 %
wide, they never have to grow with the data, and counts of separate runs add up exactly, in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Halves = npt.NDArray[np.uint16]  # the upper halves of float32 values

LOWEST = (127 - 30) << 7  # what is smaller than 2^-30 is counted with zero, in bin 0
INFINITE = 255 << 7
BINS = INFINITE - LOWEST
_SIGN = 1 << 15
CHUNK = 1 << 16  # values that are worth counting: the bins cost as much as some ten thousand of them
_MOST = 2 * CHUNK  # values counted at once
UPPER = 1 if sys.byteorder == "little" else 0  # where the upper half of a float32 is
_ZERO_BINS = (np.arange(_MOST) % 64).astype(np.uint16)


def bin_edges() -> Floats:
    """The [BINS + 1] edges of the bins of |x|; the first is 0, the last infinite."""
    bits = (np.arange(LOWEST, INFINITE + 1, dtype=np.uint32) << 16).astype(np.uint32)
    edges = bits.view(np.float32).astype(np.float64)
    edges[0] = 0.0
    return edges


def find_bins(magnitudes: Floats) -> npt.NDArray[np.int64]:
    """The bin of each |x| below the largest float32, rounded to float32."""
    bits = magnitudes.astype(np.float32).view(np.uint32) >> 16
    return np.maximum(bits.astype(np.int64) - LOWEST, 0)


@dataclass
class TensorStatistics:
    """One tensor over the calibration images. `positive` and `negative` count |x| in the bins of `bin_edges()`
    (`negative` is None while no value was below zero); the channel arrays are [channels] of axis 1. The extremes are
    those of all values; counted is every `step`-th row and column of a map, or of a small one every `step`^2-th value.

    `scale` is that of symmetric INT8 where a calibration cache gave it: the values themselves were not seen then, and
    the channel arrays are [1]."""

    name: str
    positive: Counts
    negative: Counts | None
    channel_low: npt.NDArray[np.float32]
    channel_high: npt.NDArray[np.float32]
    images: int = 0
    scale: float | None = None
    step: int = 1

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
    def magnitudes(self) -> Counts:
        """Counts of |x|."""
        return self.positive if self.negative is None else self.positive + self.negative

    @property
    def counted(self) -> int:
        """How many values are in the bins."""
        return int(self.magnitudes.sum())

    def add(self, batch: npt.NDArray[np.float32]) -> None:
        """Take in all values of a batch [N, C, ...]; raises `ValueError` when one of them is NaN or infinite."""
        self.widen(*channel_extremes(batch), len(batch))
        self.count(upper_halves(batch))

    def widen(self, low: npt.NDArray[np.float32], high: npt.NDArray[np.float32], images: int) -> None:
        """Take in the extremes [channels] of `images` more; raises `ValueError` when one of them is NaN or infinite."""
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("not finite")
        np.minimum(self.channel_low, low, out=self.channel_low)
        np.maximum(self.channel_high, high, out=self.channel_high)
        self.images += images

    def count(self, halves: Halves) -> None:
        """Count values, none of them NaN or infinite, by their upper halves: those are sign and bin.

        What ends in bin 0 (zero: half of all values after a Relu) is spread over patterns below `LOWEST` first, for
        counting in one place again and again waits each time for the store before. -0.0 is a zero, not a negative.
        """
        for start in range(0, len(halves), _MOST):
            piece = halves[start : start + _MOST]
            piece = np.maximum(piece, _ZERO_BINS[: len(piece)])
            found = np.bincount(piece)
            _add_bins(self.positive, found[:INFINITE])
            below = found[_SIGN:]
            if len(below):
                self.positive[0] += below[0]
                below[0] = 0
            if below.any():
                self.negative = np.zeros(BINS, np.int64) if self.negative is None else self.negative
                _add_bins(self.negative, below)

    def merge(self, other: TensorStatistics) -> None:
        """Take in what another process saw with the same step; exact, whatever the order."""
        if other.step != self.step:
            raise ValueError(f"{self.name!r} was counted with steps {self.step} and {other.step}")
        self.positive = self.positive + other.positive
        if other.negative is not None:
            self.negative = other.negative if self.negative is None else self.negative + other.negative
        self.channel_low = np.minimum(self.channel_low, other.channel_low)
        self.channel_high = np.maximum(self.channel_high, other.channel_high)
        self.images += other.images
        if self.scale is not None and other.scale is not None:
            self.scale = max(self.scale, other.scale)

    def with_step_one(self) -> TensorStatistics:
        """The same with each counted value standing for those around it: to be added to what was counted otherwise."""
        weight = self.step**2
        negative = None if self.negative is None else self.negative * weight
        return replace(self, positive=self.positive * weight, negative=negative, step=1)


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


def empty_statistics(name: str, channels: int, step: int = 1) -> TensorStatistics:
    """Statistics of no images."""
    return TensorStatistics(
        name=name,
        positive=np.zeros(BINS, np.int64),
        negative=None,
        channel_low=np.full(channels, np.inf, np.float32),
        channel_high=np.full(channels, -np.inf, np.float32),
        step=step,
    )


def channel_extremes(batch: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The smallest and the largest value of each channel of a batch [N, C, ...]; zeros come without a sign."""
    low, high = (f.reduce(batch, axis=0).reshape(batch.shape[1], -1) for f in (np.minimum, np.maximum))
    return low.min(axis=1) + np.float32(0), high.max(axis=1) + np.float32(0)


def upper_halves(values: npt.NDArray[np.float32]) -> Halves:
    """Sign, exponent and seven bits of mantissa of each value, flat."""
    words = np.ascontiguousarray(values).reshape(-1).view(np.uint16)
    return words[UPPER::2]


def join_statistics(name: str, parts: Sequence[TensorStatistics]) -> TensorStatistics:
    """Statistics of the tensor that holds the channels of all `parts`, counted with one step, one after the other."""
    below = [p.negative for p in parts if p.negative is not None]
    return TensorStatistics(
        name=name,
        positive=np.sum([p.positive for p in parts], axis=0),
        negative=np.sum(below, axis=0) if below else None,
        channel_low=np.concatenate([p.channel_low for p in parts]),
        channel_high=np.concatenate([p.channel_high for p in parts]),
        images=parts[0].images,
        step=parts[0].step,
    )


def find_constant_tensors(tensors: Mapping[str, TensorStatistics]) -> list[str]:
    """Tensors that had one and the same value everywhere: a scale cannot be taken from them."""
    return [name for name, s in tensors.items() if s.low == s.high]


def _add_bins(bins: Counts, found: Counts) -> None:
    bins[0] += found[:LOWEST].sum()
    bins[: max(len(found) - LOWEST, 0)] += found[LOWEST:]
