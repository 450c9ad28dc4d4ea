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
    channel_extremes,
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
_WORTH = 1 << 25  # values that need not be looked at for their minimum, for which that pays


@dataclass
class _Tally:
    """One tensor's statistics, and the values that wait to be counted many at a time."""

    held: TensorStatistics
    waiting: list[Halves] = field(default_factory=list)
    size: int = 0

    def count(self, values: Array) -> None:
        halves = upper_halves(values).copy()
        self.waiting.append(halves)
        self.size += len(halves)
        if self.size >= CHUNK:
            self.settle()

    def settle(self) -> None:
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
        self._tallies = {name: _Tally(statistics) for name, statistics in held.items()}
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
        for tally in self._tallies.values():
            tally.settle()
        return {name: self._tallies[name].held for name in self._steps if name in self._tallies}

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
        seen = {name: self._tallies[name].held for name in self._lowest if name in self._tallies}
        return {name for name, held in seen.items() if (held.channel_low == self._lowest[name]).all()}

    def _count(self, images: Array, watches: list[Watched], outputs: dict[str, Array]) -> None:
        step = self._steps[self._graph.input]
        self._take(self._graph.input, *channel_extremes(images), take_counted(images, step), len(images))
        largest = 0.0
        for w in watches:
            if w.whole:
                low, high = channel_extremes(outputs[w.whole])
                values = take_counted(outputs[w.whole], w.step)
            else:
                values = outputs[w.sample]
                high = _largest_of_channels(outputs[w.high])
                if w.low:
                    low = np.float32(0) - _largest_of_channels(outputs[w.low])
                else:
                    low = self._tallies[w.name].held.channel_low
                if w.mean and not np.isfinite(outputs[w.mean]).all():
                    high = np.full_like(high, np.nan)
            self._take(w.name, low, high, values, len(images))
            largest = max(largest, float(high.max()), -float(low.min()))
        if largest > LARGEST_VALUE:
            self._look_closer(images)

    def _take(self, name: str, low: Array, high: Array, values: Array, images: int) -> None:
        if name not in self._tallies:
            self._tallies[name] = _Tally(empty_statistics(name, len(low), self._steps[name]))
        tally = self._tallies[name]
        try:
            tally.held.widen(low, high, images)
        except ValueError as exc:
            raise _not_finite(name) from exc
        tally.count(values)

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


def fill_batch(graph: OnnxGraph, images: Array) -> Array:
    """`images` as often as a graph of a frozen batch takes them; as they are for a dynamic one."""
    frozen = frozen_batch(graph)
    return images if frozen is None else np.resize(images, (frozen, *images.shape[1:]))


def _largest_of_channels(pooled: Array) -> Array:
    largest: Array = pooled.reshape(len(pooled), -1).max(axis=0) + np.float32(0)
    return largest


def frozen_batch(graph: OnnxGraph) -> int | None:
    """The batch that the graph's input is fixed to; None for a dynamic one."""
    return graph.shapes[graph.input][0]


def _not_finite(name: str) -> GraphError:
    return GraphError(
        f"tensor {name!r} is NaN or infinite on calibration images",
        "check the weights and the preprocessing: the float graph itself overflows",
    )
