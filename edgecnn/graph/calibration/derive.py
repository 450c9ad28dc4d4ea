"""Tensors whose statistics follow from those of others: concatenations, and what holds the same values elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgecnn.graph.calibration.histogram import TensorStatistics, join_statistics
from edgecnn.graph.onnx_graph import OnnxGraph, attribute

Channels = npt.NDArray[np.intp]
_MOVES = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class Derived:
    """A tensor that holds the channels of `sources` one after the other; or, with `channels` [C, n], in each of its C
    channels the values of n whole channels of its one source."""

    sources: tuple[str, ...]
    channels: Channels | None = None

    def statistics(self, name: str, tensors: Mapping[str, TensorStatistics]) -> TensorStatistics:
        """The statistics of tensor `name` from those of its sources."""
        if self.channels is None:
            return join_statistics(name, [tensors[source] for source in self.sources])
        source = tensors[self.sources[0]]
        return replace(
            source,
            name=name,
            positive=source.positive.copy(),
            channel_low=source.channel_low[self.channels].min(axis=1),
            channel_high=source.channel_high[self.channels].max(axis=1),
        )


def find_derived(graph: OnnxGraph, names: Sequence[str]) -> dict[str, Derived]:
    """Those of the tensors `names` whose statistics follow from the input's and others' of them, in their order."""
    known = {graph.input, *names}
    made: dict[str, Derived] = {}
    moved: dict[str, tuple[str, Channels]] = {}  # a tensor that is not moved, and which of its channels lies where
    for name in names:
        node = graph.producer[name]
        if not known.issuperset(node.input[:1]):
            continue
        if node.op_type == "Concat" and attribute(node, "axis", 0) == 1 and known.issuperset(node.input):
            made[name] = Derived(tuple(node.input))
        elif node.op_type in _MOVES:
            source, before = moved.get(node.input[0]) or (node.input[0], _channels_of(graph, node.input[0]))
            after = None if before is None else _move(graph, name, before)
            if before is None or after is None:
                continue
            moved[name] = source, after
            channels = _find_whole_channels(after, math.prod(n or 0 for n in graph.shapes[source][2:]))
            if channels is not None:
                made[name] = Derived((source,), channels)
    return made


def find_step_groups(derived: Mapping[str, Derived]) -> list[set[str]]:
    """The tensors under each concatenation that are observed themselves: they are counted alike to be added up."""
    roots: dict[str, set[str]] = {}
    for name, one in derived.items():
        roots[name] = set[str]().union(*(roots.get(source, {source}) for source in one.sources))
    return [roots[name] for name in derived if len(roots[name]) > 1]


def _channels_of(graph: OnnxGraph, name: str) -> Channels | None:
    sizes = [n or 0 for n in graph.shapes[name][1:]]
    if 0 in sizes:
        return None
    return np.broadcast_to(np.arange(sizes[0]).reshape(-1, *[1] * (len(sizes) - 1)), sizes)


def _move(graph: OnnxGraph, name: str, channels: Channels) -> Channels | None:
    """Where `channels` lie in one image of what a moving node makes; None where it moves values between images."""
    node = graph.producer[name]
    before, after = graph.shapes[node.input[0]], graph.shapes[name]
    if node.op_type == "Transpose":
        axes = attribute(node, "perm", tuple(reversed(range(len(before)))))
        return channels.transpose([a - 1 for a in axes[1:]]) if axes[0] == 0 else None
    sizes = [n or 0 for n in after[1:]]
    return channels.reshape(sizes) if before[0] == after[0] and math.prod(sizes) == channels.size else None


def _find_whole_channels(moved: Channels, size: int) -> Channels | None:
    """For each channel of a moved tensor the channels [C, n] of its source, of `size` values each, that it holds; None
    where it holds parts of some."""
    rows = moved.reshape(len(moved), -1)
    if rows.shape[1] % size:
        return None
    held = np.sort(rows.astype(np.int16 if rows.max() < 1 << 15 else np.intp), axis=1).reshape(len(rows), -1, size)
    return held[:, :, 0].astype(np.intp) if (held == held[:, :, :1]).all() else None
