"""Zero points for TensorRT, which has none: an offset of a tensor folded into the biases on either side.

A tensor that is never negative uses half of int8. Stored as x - 128 steps it uses all of it. The convolution that makes
x takes the offset into its bias, where saturation at -128 is the ReLU (and at 127 the bound of a ReLU6: whatever shares
the scale has the same bound); the ones that read x take it out of theirs. That needs readers without padding (zeros
would no longer be zeros): 1x1 convolutions, Gemm, and what only moves data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from edgecnn.graph.ptq.im2col import layer_of
from edgecnn.graph.qdq.codes import Scale, WeightCodes
from edgecnn.graph.qdq.placement import Placement
from edgecnn.graph.simplify import GraphIndex, attribute, clip_bounds, copied

ZERO = -128
_ACTIVATIONS = {"Relu", "Clip"}


def offset_groups(model: onnx.ModelProto, placement: Placement) -> set[str]:
    """The groups of tensors that can be stored with an offset: made by a Conv or Gemm with a bias of its own and a
    ReLU, read through their pairs alone, and by nodes that can take the offset out."""
    index = GraphIndex(model)
    paired = {(e.node, e.index): q.group for q in placement.activations for e in q.edges}
    groups: dict[str, list[str]] = {}
    for q in placement.activations:
        groups.setdefault(q.group, []).append(q.tensor)
    found = set()
    for group, tensors in groups.items():
        chains = [c for t in tensors if (c := rectified(index, t)) is not None]
        if len({c.bound for c in chains}) <= 1 and all(
            t != index.output and _made_with_bias(index, t, paired, group) and _taken_out(index, t, paired, group)
            for t in tensors
        ):
            found.add(group)
    return found


def _made_with_bias(index: GraphIndex, tensor: str, paired: Mapping[tuple[str, int], str], group: str) -> bool:
    """Behind a ReLU of a weighted node, or a Concat or MaxPool of tensors of the same group."""
    node = index.maker.get(tensor)
    if node is None:
        return False
    if node.op_type in ("Concat", "MaxPool"):
        return all(paired.get((node.name, k)) == group for k in range(len(node.input)))
    return rectified(index, tensor) is not None


@dataclass(frozen=True)
class Rectified:
    """A Conv or Gemm and the activations behind it, which together clip to [0, bound]."""

    node: onnx.NodeProto
    activations: tuple[onnx.NodeProto, ...]
    bound: float


def rectified(index: GraphIndex, tensor: str) -> Rectified | None:
    """What makes `tensor`, where that is a Conv or Gemm with a bias of its own, then a ReLU (or a Clip that is one, or
    several whose sum is one), and nobody else reads what is in between; else None."""
    passed: list[onnx.NodeProto] = []
    name = tensor
    while (node := index.maker.get(name)) is not None and node.op_type in _ACTIVATIONS:
        passed.append(node)
        name = node.input[0]
        if len(index.readers[name]) != 1 or name == index.output:
            return None
    if node is None or node.op_type not in ("Conv", "Gemm") or not passed or not own_bias(index, node):
        return None
    low, high = -np.inf, np.inf
    for activation in reversed(passed):
        bounds = clip_bounds(index, activation)
        low, high = (float(np.minimum(np.maximum(end, bounds[0]), bounds[1])) for end in (low, high))
    return Rectified(node, tuple(passed), high) if low == 0 < high else None


def own_bias(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether `node` adds a constant of one value per output, which no other node reads and nothing multiplies."""
    layer = layer_of(index, node)
    scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
    return layer.bias != "" and len(index.readers[layer.bias]) == 1 and not scaled


def _taken_out(index: GraphIndex, tensor: str, paired: Mapping[tuple[str, int], str], group: str) -> bool:
    for node, k in index.readers.get(tensor, []):
        if paired.get((node.name, k)) != group:
            return False
        if node.op_type in ("Conv", "Gemm"):
            if k != 0 or not own_bias(index, node) or layer_of(index, node).may_pad(index.shape.get(tensor, ())):
                return False
        elif node.op_type in ("Concat", "MaxPool"):
            # what they make must carry the same offset on, to readers that take it out
            after = [
                q for (n, i), q in paired.items() if n in {r.name for r, _ in index.readers.get(node.output[0], [])}
            ]
            if not after or any(q != group for q in after):
                return False
            if not all(paired.get((r.name, i)) == group for r, i in index.readers.get(node.output[0], [])):
                return False
        else:
            return False
    return True


def with_offset(scale: Scale) -> Scale:
    """The same largest value, from 255 steps above -128."""
    return Scale(scale.scale * 127 / 255, ZERO, False) if not scale.zero else scale


def folded(
    model: onnx.ModelProto, placement: Placement, scales: Mapping[str, Scale], weights: Mapping[str, WeightCodes]
) -> tuple[onnx.ModelProto, dict[str, Scale]]:
    """The graph in which the offsets of `scales` are in the biases and every zero point is 0.

    Activations that the saturation of a pair makes redundant are left out, and so are the initialisers in `weights`,
    which the caller has as codes.
    """
    made = copied(model, without=weights)
    whole, index = GraphIndex(model), GraphIndex(made)
    group = {q.tensor: q.group for q in placement.activations}
    moved: dict[str, np.typing.NDArray[np.float64]] = {}
    gone: set[str] = set()

    def shift(bias: str, by: np.typing.NDArray[np.float64] | float) -> None:
        moved[bias] = moved.get(bias, index.array(bias).astype(np.float64)) + by

    for q in placement.activations:
        scale = scales[group[q.tensor]]
        if scale.zero == 0:
            continue
        offset = -scale.zero * float(np.float32(scale.scale))
        chain = rectified(whole, q.tensor)
        if chain is not None:
            shift(chain.node.input[2], -offset)
            gone.update(n.name for n in chain.activations)
            index.node[chain.node.name].output[0] = q.tensor
        for edge in q.edges:
            node = index.node[edge.node]
            if node.op_type in ("Conv", "Gemm"):
                layer = layer_of(whole, node)
                matrix = layer.matrix(weights[layer.weight].values())
                shift(layer.bias, matrix.sum(axis=2).reshape(-1) * offset)
    held = {i.name: i for i in made.graph.initializer}
    for name, value in moved.items():
        held[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    kept = [n for n in made.graph.node if n.name not in gone]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made, {n: Scale(s.scale) if s.zero and not s.unsigned else s for n, s in scales.items()}
