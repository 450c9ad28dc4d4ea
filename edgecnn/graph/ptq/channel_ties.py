"""Which channels of which tensors must be scaled together, so that a graph keeps computing the same.

Dividing channel c of a tensor by s > 0 passes through ReLU, pooling, concatenation and data movement, ties both
inputs of an addition together, and is absorbed by the weights on either side: rows of the node before, columns of the
node behind (cross-layer equalization, Nagel et al., "Data-free quantization through weight equalization and bias
correction", ICCV 2019; here for whole residual streams and dense blocks).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.graph.onnx_graph import OnnxGraph, attribute, clip_bounds

Ids = npt.NDArray[np.int64]

_SAME = {"Relu", "LeakyRelu"}
_POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}  # over all axes behind the second
ABSORBING = {"Conv", "Gemm", "MatMul", "BatchNormalization"}


@dataclass
class TiedChannels:
    """`ids[tensor]` numbers the channels (the axes behind the batch); equal `root` means scaled together."""

    ids: dict[str, Ids] = field(default_factory=dict)
    parent: list[int] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)

    def fresh(self, count: int) -> Ids:
        """New channels."""
        first = len(self.parent)
        self.parent += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, number: int) -> int:
        """The representative of the channels that are scaled together with `number`."""
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def join(self, first: Ids, second: Ids) -> None:
        """Tie channels together, pair by pair."""
        for a, b in zip(first.reshape(-1).tolist(), second.reshape(-1).tolist(), strict=True):
            self.parent[self.root(a)] = self.root(b)

    def pin(self, ids: Ids) -> None:
        """These channels keep their scale."""
        self.fixed.update(ids.reshape(-1).tolist())

    def roots(self, tensor: str) -> Ids:
        """[channels] of `tensor`, in representatives."""
        return np.array([self.root(i) for i in self.ids[tensor].reshape(-1).tolist()], np.int64)

    def pinned_roots(self) -> set[int]:
        """Representatives of all that is pinned."""
        return {self.root(i) for i in self.fixed}


def tie_channels(graph: OnnxGraph) -> TiedChannels:
    """Follow the channels of every activation through the graph; what is not understood is pinned."""
    made = TiedChannels()
    made.ids[graph.input] = made.fresh(int(graph.shapes[graph.input][1] or 1))
    made.pin(made.ids[graph.input])
    for node in graph.nodes:
        _follow(graph, node, made)
    for name in graph.outputs:
        if name in made.ids:
            made.pin(made.ids[name])
    return made


def _follow(graph: OnnxGraph, node: onnx.NodeProto, made: TiedChannels) -> None:
    known = [i for i in node.input if i in made.ids]
    one_axis = node.input[0] in made.ids and made.ids[node.input[0]].ndim == 1 if node.input else False
    if node.op_type in ABSORBING and len(known) == 1 and one_axis and _absorbs(graph, node):
        made.ids[node.output[0]] = made.fresh(_channel_count(graph, node))
        return
    ids = _passed_on(graph, node, made)
    if ids is not None:
        made.ids.update(zip(node.output, ids, strict=False))
        return
    for name in known:
        made.pin(made.ids[name])
    for name in node.output:
        shape = graph.shapes.get(name, ())
        if graph.is_activation(name) and len(shape) >= 2 and shape[1]:
            made.ids[name] = made.fresh(shape[1])
            made.pin(made.ids[name])


def _absorbs(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    """Whether the constants of `node` are its own, so that scales can go into them."""
    constants = node.input[1:3] if node.op_type != "BatchNormalization" else node.input[1:5]
    own = all(i in graph.initializers and len(graph.readers[i]) == 1 for i in constants if i)
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        return own and plain and not attribute(node, "transA", 0)
    if node.op_type == "MatMul":
        return own and len(graph.initializers[node.input[1]].dims) == 2 and len(graph.shapes[node.input[0]]) == 2
    return own


def _channel_count(graph: OnnxGraph, node: onnx.NodeProto) -> int:
    shape = list(graph.initializers[node.input[1]].dims)
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)):
        return int(shape[1])
    return int(shape[0])


def _passed_on(graph: OnnxGraph, node: onnx.NodeProto, made: TiedChannels) -> list[Ids] | None:
    """The channels of the outputs of a node that does not mix channels; None when it is not one."""
    first = made.ids.get(node.input[0]) if node.input else None
    if node.op_type == "Concat":
        parts = [made.ids[i] for i in node.input if i in made.ids and made.ids[i].ndim == 1]
        whole = attribute(node, "axis", 0) == 1 and len(parts) == len(node.input)
        return [np.concatenate(parts)] if whole else None
    if node.op_type == "Add":
        return _sum(graph, node, made)
    if node.op_type == "Mul":
        return _gated(graph, node, made)
    if first is None:
        return None
    if node.op_type in _POOLS:
        return [first] * len(node.output) if first.ndim == 1 else None
    if node.op_type in _SAME or (node.op_type == "Clip" and clip_bounds(graph, node) == (0.0, np.inf)):
        return [first] * len(node.output)
    if node.op_type in ("Reshape", "Flatten"):
        return _reshaped(graph, node, first)
    if node.op_type == "Transpose":
        order = list(attribute(node, "perm", (0,)))
        front = [p - 1 for p in order[1 : 1 + first.ndim]]
        stays = order[:1] == [0] and sorted(front) == list(range(first.ndim))
        return [np.transpose(first, front)] if stays else None
    if node.op_type == "ReduceMean":
        return _mean(graph, node, first)
    if node.op_type in ("Slice", "Pad", "Split"):
        return _cut(graph, node, first, made)
    return None


def _mean(graph: OnnxGraph, node: onnx.NodeProto, ids: Ids) -> list[Ids] | None:
    """A mean over axes behind the channels. Where they are computed in the graph, the shapes must leave no doubt: what
    is left of four axes is as long as the channels, and no other axis was."""
    before, after = graph.shapes.get(node.input[0], ()), graph.shapes.get(node.output[0], ())
    if len(node.input) > 1 and node.input[1] in graph.initializers:
        axes = [int(a) % len(before) for a in graph.array(node.input[1]).reshape(-1).tolist()] if before else []
        return [ids] if axes and min(axes) > ids.ndim else None
    kept = len(before) == 4 and len(after) in (2, 4) and after[1] == before[1] == ids.size
    return [ids] if kept and before[1] not in before[2:] else None


def _sum(graph: OnnxGraph, node: onnx.NodeProto, made: TiedChannels) -> list[Ids] | None:
    ids = [made.ids.get(i) for i in node.input]
    if len(ids) != 2 or ids[0] is None or ids[1] is None or ids[0].shape != ids[1].shape:
        return None
    if len({len(graph.shapes.get(i, ())) for i in node.input}) != 1:
        return None  # broadcasting lines up the last axes: the second is no longer under the second
    made.join(ids[0], ids[1])
    return [ids[0]]


def _gated(graph: OnnxGraph, node: onnx.NodeProto, made: TiedChannels) -> list[Ids] | None:
    """A tensor times a gate of one value per channel: the gate keeps its scale, the tensor is free."""
    sizes = [np.prod([d or 1 for d in graph.shapes.get(i, ())[2:]]) for i in node.input]
    if any(i not in made.ids for i in node.input) or node.input[0] == node.input[1]:
        return None
    tensor, gate = (0, 1) if sizes[0] >= sizes[1] else (1, 0)
    if made.ids[node.input[tensor]].shape != made.ids[node.input[gate]].shape:
        return None
    if len({len(graph.shapes.get(i, ())) for i in node.input}) != 1:
        return None
    made.pin(made.ids[node.input[gate]])
    return [made.ids[node.input[tensor]]]


def _reshaped(graph: OnnxGraph, node: onnx.NodeProto, ids: Ids) -> list[Ids] | None:
    before, after = graph.shapes.get(node.input[0], ()), graph.shapes.get(node.output[0], ())
    if len(before) < 2 or len(after) < 2 or None in before[1:] or None in after[1:]:
        return None
    behind = int(np.prod([d or 1 for d in before[1 + ids.ndim :]]))
    if len(after) == 2:
        whole = after[1] == ids.size * behind  # else the batch is not what it was
        return [np.repeat(ids.reshape(-1), behind)] if whole else None
    for front in range(1, len(after)):
        if int(np.prod([d or 1 for d in after[1 : 1 + front]])) == ids.size and tuple(after[1 + front :]) == tuple(
            before[1 + ids.ndim :]
        ):
            return [ids.reshape([d or 1 for d in after[1 : 1 + front]])]
    return None


def _cut(graph: OnnxGraph, node: onnx.NodeProto, ids: Ids, made: TiedChannels) -> list[Ids] | None:
    if ids.ndim != 1:
        return None
    if node.op_type == "Pad":
        return _padded(graph, node, ids, made)
    if node.op_type == "Split":
        if attribute(node, "axis", 0) != 1:
            return None
        widths = [graph.shapes[o][1] or 0 for o in node.output]
        return list(np.split(ids, np.cumsum(widths)[:-1]))
    if any(i and i not in graph.initializers for i in node.input[1:]):
        return None
    rank = len(graph.shapes[node.input[0]])
    starts, ends = graph.array(node.input[1]), graph.array(node.input[2])
    axes = graph.array(node.input[3]) if len(node.input) > 3 and node.input[3] else np.arange(len(starts))
    steps = graph.array(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(len(starts), np.int64)
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        where = int(axis) % rank
        if where == 0:
            return None
        if where == 1:
            ids = ids[int(start) : int(end) : int(step)]
    return [ids]


def _padded(graph: OnnxGraph, node: onnx.NodeProto, ids: Ids, made: TiedChannels) -> list[Ids] | None:
    value = node.input[2] if len(node.input) > 2 else ""
    zeros = not value or (value in graph.initializers and not graph.array(value).any())
    constant = attribute(node, "mode", b"constant") == b"constant" and node.input[1] in graph.initializers
    if not zeros or not constant or (len(node.input) > 3 and node.input[3]):
        return None
    pads = graph.array(node.input[1]).tolist()
    rank = len(pads) // 2
    if pads[0] or pads[rank] or min(pads[1], pads[rank + 1]) < 0:
        return None
    return [np.concatenate([made.fresh(int(pads[1])), ids, made.fresh(int(pads[rank + 1]))])]
