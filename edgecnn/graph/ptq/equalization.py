"""Cross-layer equalization: every channel of a tensor is scaled so that it fills more of the tensor's one range.

With one scale per tensor, a channel of small values gets few of its 255 levels. Dividing each channel by (a power of)
its share of the range and multiplying the columns of the weights behind it by the same costs no computation; weights
have a scale per output channel and some precision to spend. Weights that other factors have pulled apart (a trained
network keeps the columns of a layer within a factor of two) are brought back first, so that it hardly matters in which
of the equivalent forms a network comes. Streams through ReLU6 stay as they are: a bound per channel would be a node of
its own, and filling the range up to it was measured to cost more in the weights than it brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.onnx_graph import OnnxGraph, attribute
from edgecnn.graph.ptq.channel_ties import ABSORBING, TiedChannels, tie_channels
from edgecnn.graph.ptq.im2col import layer_from_node
from edgecnn.quantization import Placement

Floats = npt.NDArray[np.float64]
SMALLEST_SHARE = 2.0**-7  # of the tensor's range that a channel is taken to fill
USUAL_OCTAVES, MOST_OCTAVES = 1.0, 12.0  # that columns lie apart as trained, and that they are moved by


@dataclass(frozen=True)
class Stream:
    """Channels that share scales, with the tensors that carry them: `shares[root]` of their tensor's range."""

    tensors: tuple[str, ...]
    shares: dict[int, float]


def equalize_channels(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    strength: float,
    headroom: float = 1.0,
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """A graph that computes the same as `model` with every stream's channels scaled by share ** strength (0 to 1); a
    channel is taken to fill `headroom` times what it was seen to fill, at most all.

    Also returned: the smallest factor of each tensor that was scaled.
    """
    graph = OnnxGraph(model)
    channels = tie_channels(graph)
    levels = _level_columns(graph, placement, tensors, channels)
    factors: dict[int, float] = {}
    for stream in find_streams(placement, tensors, channels, levels):
        for root, share in stream.shares.items():
            factors[root] = levels.get(root, 1.0) * min(1.0, headroom * share) ** strength
    made = scale_channels(model, graph, channels, factors)
    touched = {t: _factors_of(channels, t, factors) for t in tensors if t in channels.ids}
    return made, {t: float(f.min()) for t, f in touched.items() if (f != 1.0).any()}


def _level_columns(
    graph: OnnxGraph, placement: Placement, tensors: Mapping[str, TensorStatistics], channels: TiedChannels
) -> dict[int, float]:
    """By channel, what brings the weights that read it to within `USUAL_OCTAVES` of its stream's median, and all the
    way where half of them lie further apart than that; such that the stream's largest value stays what it was.

    A row of weights counts relative to what it adds up, so that only columns matter. Between the groups of a grouped
    convolution nothing is added up, and by what was seen to reach furthest channels would have no headroom: there the
    rows that write the channels are brought together.
    """
    read = _read_by_weights(graph, placement, tensors, channels)
    written: dict[int, list[float]] = {}
    for one in read:
        roots = channels.roots(one.made).tolist() if one.made in channels.ids else []
        powers = one.whole(one.reach).reshape(-1).tolist()
        if len(powers) == len(roots):  # else its outputs are not the tensor's channels
            for root, power in zip(roots, powers, strict=True):
                written.setdefault(root, []).append(power)
    squares: dict[int, list[float]] = {}
    for one in read:
        reach, grouped = one.reach, len(one.power) > 1
        if grouped and all(max(written.get(r, [0.0])) > 0 for r in one.roots):
            reach = np.array([np.mean(written[r]) ** 0.5 for r in one.roots])
        columns = (one.power / np.maximum(one.whole(reach), 1e-30)[:, :, None]).mean(axis=1).reshape(-1)
        for root, column in zip(one.roots, columns.tolist(), strict=True):
            squares.setdefault(root, []).append(column)
    levels: dict[int, float] = {}
    for stream in find_streams(placement, tensors, channels):
        known = [r for r in stream.shares if max(squares.get(r, [0.0])) > 0]
        octaves = np.array([0.5 * np.log2(np.mean(squares[r])) for r in known])
        apart = octaves - np.median(octaves) if known else octaves
        lower, upper = np.quantile(apart, [0.25, 0.75]) if known else (0.0, 0.0)
        usual = 0.0 if upper - lower > USUAL_OCTAVES else USUAL_OCTAVES
        moved = -np.sign(apart) * np.clip(np.abs(apart) - usual, 0.0, MOST_OCTAVES)
        found = dict(zip(known, (2.0**moved).tolist(), strict=True))
        if (moved != 0).any():
            grown = max(share / found.get(r, 1.0) for r, share in stream.shares.items()) / max(stream.shares.values())
            levels.update({r: grown * found.get(r, 1.0) for r in stream.shares})
    return levels


@dataclass(frozen=True)
class _Read:
    """What weights make of a tensor: `power` [groups, outputs, channels] of the columns of each of its channels, their
    `roots` and the `reach` [channels] seen; `made` is what comes out."""

    power: Floats
    roots: list[int]
    reach: Floats
    made: str

    def whole(self, reach: Floats) -> Floats:
        """[groups, outputs]: the power of the outputs, of channels that reach as far."""
        return np.asarray((self.power * np.square(reach).reshape(len(self.power), 1, -1)).sum(axis=2))


def _read_by_weights(
    graph: OnnxGraph, placement: Placement, tensors: Mapping[str, TensorStatistics], channels: TiedChannels
) -> list[_Read]:
    found = []
    for one in placement.weights:
        node = graph.node[one.node]
        layer = layer_from_node(graph, node)
        weight = graph.array(layer.weight)
        tensor = node.input[0]
        if tensor not in channels.ids or tensor not in tensors or (node.op_type == "MatMul" and weight.ndim > 2):
            continue
        reach, roots = _magnitudes(tensors[tensor]), channels.roots(tensor)
        power = np.square(layer.matrix(weight))
        if len(reach) != len(roots) or power.shape[0] * power.shape[2] % len(reach) or len(reach) % layer.groups:
            continue  # its channels are not the tensor's
        power = power.reshape(*power.shape[:2], len(reach) // layer.groups, -1).sum(axis=3)
        found.append(_Read(power, roots.tolist(), reach, node.output[0]))
    return found


def find_streams(
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    channels: TiedChannels,
    levels: Mapping[int, float] | None = None,
) -> list[Stream]:
    """The sets of channels that can be scaled independently of each other, in the order of the graph; once they are
    divided by their `levels`."""
    levels = levels or {}
    pinned = channels.pinned_roots()
    limit: dict[str, float] = {}
    for q in placement.activations:
        reach = _magnitudes(tensors[q.tensor])
        if q.tensor in channels.ids and len(reach) == len(channels.roots(q.tensor)):
            reach = reach / _factors_of(channels, q.tensor, levels)
        limit[q.scale_group] = max(limit.get(q.scale_group, 0.0), float(reach.max()))
    squares: dict[int, list[float]] = {}
    leader: dict[int, int] = {}

    def lead(root: int) -> int:
        while leader.setdefault(root, root) != root:
            root = leader[root]
        return root

    by_group: dict[str, int] = {}
    names: dict[int, list[str]] = {}
    for q in placement.activations:
        if q.tensor not in channels.ids or limit[q.scale_group] == 0.0:
            continue
        statistics, roots = tensors[q.tensor], channels.roots(q.tensor)
        if len(roots) != len(statistics.channel_high):
            continue
        shares = _magnitudes(statistics) / _factors_of(channels, q.tensor, levels) / limit[q.scale_group]
        for root, share in zip(roots.tolist(), shares.tolist(), strict=True):
            leader[lead(root)] = lead(by_group.setdefault(q.scale_group, root))
            squares.setdefault(root, []).append(share)
        names.setdefault(int(roots[0]), []).append(q.tensor)
    found: dict[int, dict[int, float]] = {}
    for root, values in squares.items():
        if root not in pinned:
            share = float(np.sqrt(np.mean(np.square(values))))
            found.setdefault(lead(root), {})[root] = float(np.clip(share, SMALLEST_SHARE, 1.0))
    carried: dict[int, list[str]] = {}
    for root, members in names.items():
        carried.setdefault(lead(root), []).extend(members)
    return [Stream(tuple(carried[key]), shares) for key, shares in found.items() if key in carried]


def scale_channels(
    model: onnx.ModelProto, graph: OnnxGraph, channels: TiedChannels, factors: Mapping[int, float]
) -> onnx.ModelProto:
    """A copy of `model` in which channels are divided by their factor, and the weights around absorb it."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = {i.name: i for i in made.graph.initializer}
    for node in graph.nodes:
        if node.op_type not in ABSORBING or node.output[0] not in channels.ids or node.input[0] not in channels.ids:
            continue
        before = _factors_of(channels, node.input[0], factors)
        after = _factors_of(channels, node.output[0], factors)
        if (before == 1.0).all() and (after == 1.0).all():
            continue
        for name, value in _absorb(graph, node, before, after).items():
            held[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return made


def _absorb(graph: OnnxGraph, node: onnx.NodeProto, before: Floats, after: Floats) -> dict[str, Floats]:
    weight = graph.array(node.input[1]).astype(np.float64)
    done: dict[str, Floats] = {}
    if node.op_type == "BatchNormalization":
        done[node.input[1]] = weight * before / after
        done[node.input[2]] = graph.array(node.input[2]) / after
        done[node.input[3]] = graph.array(node.input[3]) / before
        return done
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        columns = before.reshape(groups, -1)[np.repeat(np.arange(groups), weight.shape[0] // groups)]
        spread = columns.reshape(weight.shape[0], -1, *[1] * (weight.ndim - 2))
        done[node.input[1]] = weight * spread / after.reshape(-1, *[1] * (weight.ndim - 1))
    elif node.op_type == "Gemm" and attribute(node, "transB", 0):
        done[node.input[1]] = weight * before / after[:, None]
    else:
        done[node.input[1]] = weight * before[:, None] / after
    if node.op_type != "MatMul" and len(node.input) > 2 and node.input[2]:
        done[node.input[2]] = graph.array(node.input[2]) / after
    return done


def _factors_of(channels: TiedChannels, tensor: str, factors: Mapping[int, float]) -> Floats:
    return np.array([factors.get(r, 1.0) for r in channels.roots(tensor).tolist()])


def _magnitudes(statistics: TensorStatistics) -> Floats:
    """The largest magnitude of each channel."""
    return np.maximum(statistics.channel_high, -statistics.channel_low).astype(np.float64)
