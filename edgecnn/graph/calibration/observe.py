"""Run a graph and keep statistics of what `watch` lets out of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.histogram import TensorStatistics, empty_statistics, upper_halves
from edgecnn.graph.calibration.tally import JoinedTallies, Tally
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
_REVIEWED = (2, 8)  # batches before which another session may be opened
_WORTH = 1 << 26  # values that need not be looked at for their minimum, for which that pays


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
        self._tallies = {name: Tally.of(statistics, 1) for name, statistics in held.items()}
        pooled = [name for name, step in steps.items() if is_pooled(graph.shapes[name], step)]
        self._lowest = {name: lower_bound(graph, name) for name in pooled}
        self._settled = self._find_settled()
        self._batches, self._left = 0, images
        self._counting, self._failed = threading.Lock(), False
        self._joined: JoinedTallies | None = None
        self._lone: list[Watched] = []  # those that are not joined
        self._sessions: list[onnxruntime.InferenceSession] = []  # the one in use
        self._open()

    def begin_batch(self, images: int) -> None:
        """Before so many images are run, in parts or at once, and while none are."""
        self._batches += 1
        if self._batches in _REVIEWED:
            self._review()
        self._left -= images

    def run(self, images: Array) -> Callable[[], None]:
        """Run `images` [N, C, H, W]; what is returned counts what came out, in any order, and raises `GraphError`
        naming a tensor that is NaN or infinite. Several threads may call both at once."""
        names = outputs_of(self._watches)
        with onnxruntime_errors("the graph", "failed while running it", "check the graph's input"):
            filled = fill_batch(self._graph, images)
            made = self._sessions[0].run(names, {self._graph.input: filled})
        if len(filled) > len(images):
            made = [m[: len(m) * len(images) // len(filled)] for m in made]
        return partial(self._count, images, dict(zip(names, made, strict=True)))

    def statistics(self) -> dict[str, TensorStatistics]:
        """What was counted so far."""
        if self._joined is not None:
            self._joined.settle()
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
        if self._joined is not None:
            self._joined.settle()
        self._joined = None
        inner = {name: step for name, step in self._steps.items() if name != self._graph.input}
        model, self._watches = add_watches(self._graph, inner, self._settled)
        with onnxruntime_errors("the graph", hint=IMPORT_IT, error=GraphError):
            self._sessions.append(open_session(model, threads=self._threads, earliest_first=True))

    def _find_settled(self) -> set[str]:
        """The tensors that have reached in every channel the value that they cannot be below."""
        seen = {name: self._tallies[name].low for name in self._lowest if name in self._tallies}
        return {name for name, low in seen.items() if (low == self._lowest[name]).all()}

    def _count(self, images: Array, outputs: dict[str, Array]) -> None:
        with self._counting:
            if self._failed:  # by another piece, whose error it is: what is held is not finite
                return
            self._failed = True
            if self._joined is None:
                self._join(outputs, len(images))
            assert self._joined is not None
            counted = take_counted(images, self._steps[self._graph.input])
            if not math.isfinite(self._take(self._graph.input, images, images, counted, len(images))):
                raise _not_finite(self._graph.input)
            found = [self._joined.take(outputs, len(images))]
            found += [self._take(w.name, *_seen(w, outputs), len(images)) for w in self._lone]
            hiding = [w for w in self._watches if w.mean and not np.isfinite(outputs[w.mean]).all()]
            largest = float(np.max(found))
            if hiding or not math.isfinite(largest):
                raise _not_finite(next(w.name for w in self._watches if not _is_finite(w, outputs)))
            if largest > LARGEST_VALUE and max(np.abs(o).max(initial=0) for o in outputs.values()) > LARGEST_VALUE:
                self._look_closer(images)
            self._failed = False

    def _join(self, outputs: Mapping[str, Array], images: int) -> None:
        """Decide by the first outputs which tensors are taken in together: a small map whole, or what came of a large
        one, with the batch as first axis and all other sizes fixed."""
        batch = self._graph.shapes[self._graph.input][0]
        joined: list[Watched] = []
        self._lone = []
        for w in self._watches:
            high = outputs[w.whole or w.high]
            known = self._tallies.get(w.name)
            held = empty_statistics(w.name, high.shape[1], self._steps[w.name]) if known is None else known.settle()
            self._tallies[w.name] = Tally.of(held, math.prod(high.shape[2:]))
            first, *others = self._graph.shapes[w.name]
            fixed = first == batch and None not in others and len(high) == images
            whole = not w.whole or self._tallies[w.name].high.size == high[0].size
            (joined if fixed and whole else self._lone).append(w)
        self._joined = JoinedTallies(joined, self._tallies)

    def _take(self, name: str, low: Array | None, high: Array, values: Array, images: int) -> float:
        """Count `values` of a tensor of `images`, and widen its range by the others; the largest magnitude."""
        if name not in self._tallies:
            empty = empty_statistics(name, high.shape[1], self._steps[name])
            self._tallies[name] = Tally.of(empty, math.prod(high.shape[2:]))
        largest = self._tallies[name].widen(low, high, images)
        if math.isfinite(largest):
            self._tallies[name].count(upper_halves(values).copy())
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


def _seen(w: Watched, outputs: Mapping[str, Array]) -> tuple[Array | None, Array, Array]:
    """Extremes of the tensor, and the values of it that are counted."""
    if w.whole:
        return outputs[w.whole], outputs[w.whole], take_counted(outputs[w.whole], w.step)
    return np.negative(outputs[w.low]) if w.low else None, outputs[w.high], outputs[w.sample]


def _is_finite(w: Watched, outputs: Mapping[str, Array]) -> bool:
    seen = (w.whole, w.high, w.low, w.mean)
    return all(np.isfinite(outputs[name]).all() for name in seen if name)


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
