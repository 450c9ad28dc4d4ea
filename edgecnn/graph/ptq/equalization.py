"""Cross-layer equalization: every channel of a tensor is scaled so that it fills more of the tensor's one range.

With one scale per tensor, a channel of small values gets few of its 255 levels. Dividing each channel by (a power of)
its share of the range and multiplying the columns of the weights behind it by the same costs no computation; weights
have a scale per output channel and some precision to spend. Streams through ReLU6 stay as they are: a bound per channel
would be a node of its own, and filling the range up to it was measured to cost more in the weights than it brings.
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
from edgecnn.quantization import Placement

Floats = npt.NDArray[np.float64]
SMALLEST_SHARE = 2.0**-7  # of the tensor's range that a channel is taken to fill


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
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """A graph that computes the same as `model` with every stream's channels scaled by share ** strength (0 to 1).

    Also returned: the smallest factor of each tensor that was scaled.
    """
    graph = OnnxGraph(model)
    channels = tie_channels(graph)
    factors: dict[int, float] = {}
    for stream in find_streams(placement, tensors, channels):
        factors.update({root: share**strength for root, share in stream.shares.items()})
    made = scale_channels(model, graph, channels, factors)
    touched = {t: float(_factors_of(channels, t, factors).min()) for t in tensors if t in channels.ids}
    return made, {t: f for t, f in touched.items() if f < 1.0}


def find_streams(placement: Placement, tensors: Mapping[str, TensorStatistics], channels: TiedChannels) -> list[Stream]:
    """The sets of channels that can be scaled independently of each other, in the order of the graph."""
    pinned = channels.pinned_roots()
    limit: dict[str, float] = {}
    for q in placement.activations:
        limit[q.scale_group] = max(limit.get(q.scale_group, 0.0), tensors[q.tensor].largest)
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
        shares = np.maximum(statistics.channel_high, -statistics.channel_low) / limit[q.scale_group]
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
