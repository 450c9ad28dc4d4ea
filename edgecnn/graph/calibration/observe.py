"""Run a graph and keep statistics of what `watch` lets out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.histogram import (
    CHUNK,
    Halves,
    TensorStatistics,
    empty_statistics,
    upper_halves,
)
from edgecnn.graph.calibration.watch import (
    LARGEST_VALUE,
    Watched,
    add_watches,
    is_pooled,
    lower_bound,
    outputs_of,
    take_counted,
)
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.simplify import IMPORT_IT

Array = npt.NDArray[np.float32]
_REVIEWED = (2, 8)  # runs before which another session may be opened
_WORTH = 1 << 26  # values that need not be looked at for their minimum, for which that pays
_MANY_PLACES = 256  # of a map whose extremes are sought at once; those of a small one are sought once, at the end


@dataclass
class _Tally:
    """One tensor's statistics; and what is not in them yet: the extremes of `images` more, [channels, places] of a
    small map, and values that wait to be counted many at a time."""

    held: TensorStatistics
    low: Array
    high: Array
    images: int = 0
    waiting: list[Halves] = field(default_factory=list)
    size: int = 0

    @classmethod
    def of(cls, held: TensorStatistics, places: int) -> _Tally:
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

    def count(self, values: Array) -> None:
        halves = upper_halves(values).copy()
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


class Observer:
    """Statistics of the tensors of `steps`, counted with these steps over so many `images`; they go on from what is
    `held` already."""

    def __init__(
        self,
        graph: OnnxGraph,
        steps: Mapping[str, int],
        held: Mapping[str, TensorStatistics],
        *,
        images: int,
        threads: int,
    ) -> None:
        self._graph, self._steps, self._threads = graph, dict(steps), threads
        self._tallies = {name: _Tally.of(statistics, 1) for name, statistics in held.items()}
        pooled = [name for name, step in steps.items() if is_pooled(graph.shapes[name], step)]
        self._lowest = {name: lower_bound(graph, name) for name in pooled}
        self._settled = self._find_settled()
        self._runs, self._left = 0, images
        self._sessions: list[onnxruntime.InferenceSession] = []  # the one in use
        self._open()

    def run(self, images: Array) -> Callable[[], None]:
        """Run `images` [N, C, H, W]; what is returned counts what came out, one call after the other, and raises
        `GraphError` naming a tensor that is NaN or infinite."""
        self._runs += 1
        if self._runs in _REVIEWED:
            self._review()
        self._left -= len(images)
        names = outputs_of(self._watches)
        with onnxruntime_errors("the graph", "failed while running it", "check the graph's input"):
            filled = fill_batch(self._graph, images)
            made = self._sessions[0].run(names, {self._graph.input: filled})
        if len(filled) > len(images):
            made = [m[: len(m) * len(images) // len(filled)] for m in made]
        return partial(self._count, images, self._watches, dict(zip(names, made, strict=True)))

    def statistics(self) -> dict[str, TensorStatistics]:
        """What was counted so far."""
        return {name: self._tallies[name].settle() for name in self._steps if name in self._tallies}

    def _review(self) -> None:
        """Another session where enough need no longer be looked at."""
        found = self._find_settled()
        spared = sum(math.prod(n or 1 for n in self._graph.shapes[name][1:]) for name in found - self._settled)
        if spared * self._left >= _WORTH:
            self._settled = found
            self._open()

    def _open(self) -> None:
        self._sessions.clear()  # before the next one takes memory
        inner = {name: step for name, step in self._steps.items() if name != self._graph.input}
        model, self._watches = add_watches(self._graph, inner, self._settled)
        with onnxruntime_errors("the graph", hint=IMPORT_IT, error=GraphError):
            self._sessions.append(open_session(model, threads=self._threads, earliest_first=True))

    def _find_settled(self) -> set[str]:
        """The tensors that have reached in every channel the value that they cannot be below."""
        seen = {name: self._tallies[name].low for name in self._lowest if name in self._tallies}
        return {name for name, low in seen.items() if (low == self._lowest[name]).all()}

    def _count(self, images: Array, watches: list[Watched], outputs: dict[str, Array]) -> None:
        self._take(self._graph.input, images, images, take_counted(images, self._steps[self._graph.input]), len(images))
        largest = 0.0
        for w in watches:
            low: Array | None
            if w.whole:
                low = high = outputs[w.whole]
                values = take_counted(high, w.step)
            else:
                values, high = outputs[w.sample], outputs[w.high]
                low = np.negative(outputs[w.low]) if w.low else None
                if w.mean and not np.isfinite(outputs[w.mean]).all():
                    high = np.full_like(high, np.nan)
            largest = max(largest, self._take(w.name, low, high, values, len(images)))
        if largest > LARGEST_VALUE:
            self._look_closer(images)

    def _take(self, name: str, low: Array | None, high: Array, values: Array, images: int) -> float:
        """Count `values` of a tensor of `images`, and widen its range by the others; the largest magnitude."""
        if name not in self._tallies:
            empty = empty_statistics(name, high.shape[1], self._steps[name])
            self._tallies[name] = _Tally.of(empty, math.prod(high.shape[2:]))
        tally = self._tallies[name]
        if not math.isfinite(largest := tally.widen(low, high, images)):
            raise _not_finite(name)
        tally.count(values)
        return largest

    def _look_closer(self, images: Array) -> None:
        """Whether a NaN or an infinity hides among values that are this large."""
        names = [w.name for w in self._watches]
        with onnxruntime_errors("the graph", "failed while running it", "check the graph's input"):
            session = open_session(self._graph.model, names, threads=self._threads)
            for image in images:
                given = fill_batch(self._graph, image[None])
                for name, values in zip(names, session.run(None, {self._graph.input: given}), strict=True):
                    if not np.isfinite(values).all():
                        raise _not_finite(name)


def _widen(held: Array, update: np.ufunc, values: Array) -> float:
    """Take values [N, channels, ...] into extremes [channels, places]; the extreme of the values alone."""
    if held.shape[1] == 1:
        values = update.reduce(values.reshape(len(values), len(held), -1), axis=2)
    each = values[0] if len(values) == 1 else update.reduce(values, axis=0)
    update(held, each.reshape(held.shape), out=held)
    return float(update.reduce(each, axis=None))


def fill_batch(graph: OnnxGraph, images: Array) -> Array:
    """`images` as often as a graph of a frozen batch takes them; as they are for a dynamic one."""
    frozen = frozen_batch(graph)
    return images if frozen is None else np.resize(images, (frozen, *images.shape[1:]))


def frozen_batch(graph: OnnxGraph) -> int | None:
    """The batch that the graph's input is fixed to; None for a dynamic one."""
    return graph.shapes[graph.input][0]


def _not_finite(name: str) -> GraphError:
    return GraphError(
        f"tensor {name!r} is NaN or infinite on calibration images",
        "check the weights and the preprocessing: the float graph itself overflows",
    )
