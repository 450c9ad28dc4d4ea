"""Statistics that are still being taken in: extremes by place, values that wait to be counted many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgecnn.graph.calibration.histogram import CHUNK, UPPER, Halves, TensorStatistics
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
        whole, lows = [tallies[w.name] for w in self._whole], [tallies[w.name] for w in self._lows]
        self._whole_low, self._whole_high = _join(whole, "low"), _join(whole, "high")
        self._parts = [(t.low.reshape(-1), t.high.reshape(-1)) for t in whole]
        self._low = _join(lows, "low")
        self._high = _join([tallies[w.name] for w in self._pooled], "high")
        self._widths: list[int] = []  # how many values of an image are counted of each tensor
        self._rows: Halves = np.zeros((0, 0), np.uint16)  # [N, sum of the widths]; the first `_images` are in use
        self._images = 0

    def take(self, outputs: Mapping[str, Array], images: int) -> float:
        """Take in what came out for so many `images`; the largest magnitude so far, NaN where one was."""
        if not self._tallies:
            return 0.0
        whole = [outputs[w.whole].reshape(images, -1) for w in self._whole]
        self._keep(whole, [outputs[w.sample].reshape(images, -1) for w in self._pooled], images)
        for values, (low, high) in zip(whole, self._parts, strict=True):
            np.minimum(low, values[0] if images == 1 else np.minimum.reduce(values, axis=0), out=low)
            np.maximum(high, values[0] if images == 1 else np.maximum.reduce(values, axis=0), out=high)
        if self._pooled:
            np.maximum(self._high, _most(outputs, [w.high for w in self._pooled], images), out=self._high)
        if self._lows:
            np.minimum(self._low, -_most(outputs, [w.low for w in self._lows], images), out=self._low)
        highs = [e.max(initial=0.0) for e in (self._whole_high, self._high)]
        return float(np.max([*highs, *(-e.min(initial=0.0) for e in (self._whole_low, self._low))]))

    def settle(self) -> None:
        """Give each tally what was taken in."""
        if self._images == 0:
            return
        rows, start = self._rows[: self._images], 0
        for tally, width in zip(self._tallies, self._widths, strict=True):
            tally.count(rows[:, start : start + width].flatten())  # a copy: the rows are written over
            tally.images += self._images
            start += width
        self._images = 0

    def _keep(self, whole: Sequence[Array], samples: Sequence[Array], images: int) -> None:
        """Keep the values that are counted, in memory that is there already: new pages for each batch cost more than
        what is written into them."""
        steps = [2 * w.step**2 for w in self._whole] + [2] * len(samples)
        halves = [v.view(np.uint16)[:, UPPER::step] for v, step in zip((*whole, *samples), steps, strict=True)]
        if not self._widths:
            self._widths = [h.shape[1] for h in halves]
        if self._images + images > len(self._rows):
            self.settle()
        if images > len(self._rows):
            width = sum(self._widths)
            self._rows = np.empty((max(images, _WAITING_BYTES // (2 * width)), width), np.uint16)
        np.concatenate(halves, axis=1, out=self._rows[self._images : self._images + images])
        self._images += images


def _join(tallies: Sequence[Tally], side: str) -> Array:
    """One array of what the tallies hold on a side, of which theirs become parts."""
    held = [getattr(t, side) for t in tallies]
    joined = np.concatenate([a.reshape(-1) for a in held]) if held else np.zeros(0, np.float32)
    start = 0
    for tally, array in zip(tallies, held, strict=True):
        setattr(tally, side, joined[start : start + array.size].reshape(array.shape))
        start += array.size
    return joined


def _most(outputs: Mapping[str, Array], names: Sequence[str], images: int) -> Array:
    """The largest values of the outputs [N, ...], one after the other."""
    joined = np.concatenate([outputs[name].reshape(images, -1) for name in names], axis=1)
    return joined[0] if images == 1 else np.asarray(np.maximum.reduce(joined, axis=0))


def _widen(held: Array, update: np.ufunc, values: Array) -> float:
    """Take values [N, channels, ...] into extremes [channels, places]; the extreme of the values alone."""
    if held.shape[1] == 1:
        values = update.reduce(values.reshape(len(values), len(held), -1), axis=2)
    each = values[0] if len(values) == 1 else update.reduce(values, axis=0)
    update(held, each.reshape(held.shape), out=held)
    return float(update.reduce(each, axis=None))
