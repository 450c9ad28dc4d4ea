"""Statistics that are still being taken in: extremes by place, values that wait to be counted many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgecnn.graph.calibration.histogram import CHUNK, Halves, TensorStatistics, upper_halves
from edgecnn.graph.calibration.watch import Watched

Array = npt.NDArray[np.float32]
_MANY_PLACES = 256  # of a map whose extremes are sought at once; those of a small one are sought once, at the end
_WAITING_BYTES = 8 << 20  # of values taken in together, before they are told apart


@dataclass
class Tally:
    """One tensor's statistics; and what is not in them yet: the extremes of `images` more, [channels, places] of a
    small map, and values that wait to be counted many at a time."""

    held: TensorStatistics
    low: Array
    high: Array
    images: int = 0
    waiting: list[Halves] = field(default_factory=list)
    size: int = 0

    @classmethod
    def of(cls, held: TensorStatistics, places: int) -> Tally:
        """A tally of maps with so many places."""
        places = places if places < _MANY_PLACES else 1
        low, high = (np.repeat(e[:, None], places, axis=1) for e in (held.channel_low, held.channel_high))
        return cls(held, low, high)

    def widen(self, low: Array | None, high: Array, images: int) -> float:
        """Take in extremes [N, channels, ...] of `images`; the largest magnitude, NaN where one of them is. `low`
        is None where no value can be below those seen."""
        if self.high.shape[1] > 1 and high[0].size != self.high.size:  # the batch is not the first axis
            self.low, self.high = self.low.min(axis=1, keepdims=True), self.high.max(axis=1, keepdims=True)
        most = _widen(self.high, np.maximum, high)
        least = -most if low is None else _widen(self.low, np.minimum, low)
        self.images += images
        return max(most, -least) if least == least else least

    def count(self, halves: Halves) -> None:
        """Take in values by their upper halves, flat."""
        self.waiting.append(halves)
        self.size += len(halves)
        if self.size >= CHUNK:
            self._count_waiting()

    def settle(self) -> TensorStatistics:
        """The statistics, with all that was taken in."""
        if self.images:
            low, high = self.low.min(axis=1), self.high.max(axis=1)
            self.held.widen(low + np.float32(0), high + np.float32(0), self.images)  # zeros without a sign
            self.images = 0
        self._count_waiting()
        return self.held

    def _count_waiting(self) -> None:
        if self.waiting:
            self.held.count(np.concatenate(self.waiting))
            self.waiting, self.size = [], 0


class JoinedTallies:
    """The tallies of many tensors [N, ...] of fixed sizes, which take in a batch together: most tensors are small, and
    a few calls of NumPy for each of them cost more than the network."""

    def __init__(self, watches: Sequence[Watched], tallies: Mapping[str, Tally]) -> None:
        """`watches` are looked at in each batch; the arrays of their `tallies` become parts of common ones."""
        self._whole = [w for w in watches if w.whole]
        self._pooled = [w for w in watches if not w.whole]
        self._lows = [w for w in self._pooled if w.low]
        self._tallies = [tallies[w.name] for w in (*self._whole, *self._pooled)]
        whole, pooled = self._tallies[: len(self._whole)], self._tallies[len(self._whole) :]
        self._whole_low, self._whole_high = _join(whole, "low"), _join(whole, "high")
        self._high = _join(pooled, "high")
        self._low = _join([t for w, t in zip(self._pooled, pooled, strict=True) if w.low], "low")
        self._images, self._bytes = 0, 0
        self._widths: list[int] = []  # how many values of an image are counted of each tensor
        self._rows: list[Halves] = []  # [N, sum of the widths]

    def take(self, outputs: Mapping[str, Array], images: int) -> float:
        """Take in what came out for so many `images`; the largest magnitude, NaN where one of them is."""
        if not self._tallies:
            return 0.0
        if self._bytes >= _WAITING_BYTES:  # here, for what is taken in now may prove to be NaN
            self.settle()
        whole = [outputs[w.whole].reshape(images, -1) for w in self._whole]
        values = [
            *(v[:, :: w.step**2] for v, w in zip(whole, self._whole, strict=True)),
            *(outputs[w.sample].reshape(images, -1) for w in self._pooled),
        ]
        self._widths = self._widths or [v.shape[1] for v in values]
        rows = upper_halves(np.concatenate(values, axis=1)).reshape(images, -1).copy()
        self._rows.append(rows)
        self._images += images
        self._bytes += rows.nbytes
        largest = [0.0]
        if whole:
            joined = np.concatenate(whole, axis=1)
            largest += [_take_in(self._whole_high, np.maximum, joined), -_take_in(self._whole_low, np.minimum, joined)]
        if self._pooled:
            high = np.concatenate([outputs[w.high].reshape(images, -1) for w in self._pooled], axis=1)
            largest.append(_take_in(self._high, np.maximum, high))
        if self._lows:
            low = np.concatenate([outputs[w.low].reshape(images, -1) for w in self._lows], axis=1)
            largest.append(-_take_in(self._low, np.minimum, np.negative(low, out=low)))
        return float(np.max(largest))

    def settle(self) -> None:
        """Give each tally what was taken in."""
        if not self._rows:
            return
        rows = self._rows[0] if len(self._rows) == 1 else np.concatenate(self._rows)
        ends = np.cumsum(self._widths)
        for tally, end, width in zip(self._tallies, ends, self._widths, strict=True):
            tally.count(rows[:, end - width : end].reshape(-1))
            tally.images += self._images
        self._rows, self._bytes, self._images = [], 0, 0


def _join(tallies: Sequence[Tally], side: str) -> Array:
    """One array of what the tallies hold on a side, of which theirs become parts."""
    held = [getattr(t, side) for t in tallies]
    joined = np.concatenate([a.reshape(-1) for a in held]) if held else np.zeros(0, np.float32)
    start = 0
    for tally, array in zip(tallies, held, strict=True):
        setattr(tally, side, joined[start : start + array.size].reshape(array.shape))
        start += array.size
    return joined


def _take_in(held: Array, update: np.ufunc, values: Array) -> float:
    """Take values [N, n] into extremes [n]; the extreme of the values alone."""
    each = values[0] if len(values) == 1 else update.reduce(values, axis=0)
    update(held, each, out=held)
    return float(update.reduce(each))


def _widen(held: Array, update: np.ufunc, values: Array) -> float:
    """Take values [N, channels, ...] into extremes [channels, places]; the extreme of the values alone."""
    if held.shape[1] == 1:
        values = update.reduce(values.reshape(len(values), len(held), -1), axis=2)
    each = values[0] if len(values) == 1 else update.reduce(values, axis=0)
    update(held, each.reshape(held.shape), out=held)
    return float(update.reduce(each, axis=None))
