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

from edgecnn.graph.onnx_graph import OnnxGraph, attribute, clip_bounds, copy_model
from edgecnn.graph.ptq.im2col import layer_from_node
from edgecnn.quantization import Placement, QuantizedWeights, QuantParams

ZERO = -128
_ACTIVATIONS = {"Relu", "Clip"}


def find_foldable_groups(model: onnx.ModelProto, placement: Placement) -> set[str]:
    """The groups of tensors that can be stored with an offset: made by a Conv or Gemm with a bias of its own and a
    ReLU, read through their pairs alone, and by nodes that can take the offset out."""
    graph = OnnxGraph(model)
    paired = {(e.node, e.index): q.scale_group for q in placement.activations for e in q.edges}
    groups: dict[str, list[str]] = {}
    for q in placement.activations:
        groups.setdefault(q.scale_group, []).append(q.tensor)
    found = set()
    for group, tensors in groups.items():
        chains = [c for t in tensors if (c := find_rectified(graph, t)) is not None]
        if len({c.bound for c in chains}) <= 1 and all(
            t not in graph.outputs
            and _is_made_with_bias(graph, t, paired, group)
            and _is_taken_out(graph, t, paired, group)
            for t in tensors
        ):
            found.add(group)
    return found


def _is_made_with_bias(graph: OnnxGraph, tensor: str, paired: Mapping[tuple[str, int], str], group: str) -> bool:
    """Behind a ReLU of a weighted node, or a Concat or MaxPool of tensors of the same group."""
    node = graph.producer.get(tensor)
    if node is None:
        return False
    if node.op_type in ("Concat", "MaxPool"):
        return all(paired.get((node.name, k)) == group for k in range(len(node.input)))
    return find_rectified(graph, tensor) is not None


@dataclass(frozen=True)
class Rectified:
    """A Conv or Gemm and the activations behind it, which together clip to [0, bound]."""

    node: onnx.NodeProto
    activations: tuple[onnx.NodeProto, ...]
    bound: float


def find_rectified(graph: OnnxGraph, tensor: str) -> Rectified | None:
    """What makes `tensor`, where that is a Conv or Gemm with a bias of its own, then a ReLU (or a Clip that is one, or
    several whose sum is one), and nobody else reads what is in between; else None."""
    passed: list[onnx.NodeProto] = []
    name = tensor
    while (node := graph.producer.get(name)) is not None and node.op_type in _ACTIVATIONS:
        passed.append(node)
        name = node.input[0]
        if len(graph.readers[name]) != 1 or name in graph.outputs:
            return None
    if node is None or node.op_type not in ("Conv", "Gemm") or not passed or not has_own_bias(graph, node):
        return None
    low, high = -np.inf, np.inf
    for activation in reversed(passed):
        bounds = clip_bounds(graph, activation)
        low, high = (float(np.minimum(np.maximum(end, bounds[0]), bounds[1])) for end in (low, high))
    return Rectified(node, tuple(passed), high) if low == 0 < high else None


def has_own_bias(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    """Whether `node` adds a constant of one value per output, which no other node reads and nothing multiplies."""
    layer = layer_from_node(graph, node)
    scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
    return layer.bias != "" and len(graph.readers[layer.bias]) == 1 and not scaled


def _is_taken_out(graph: OnnxGraph, tensor: str, paired: Mapping[tuple[str, int], str], group: str) -> bool:
    for node, k in graph.readers.get(tensor, []):
        if paired.get((node.name, k)) != group:
            return False
        if node.op_type in ("Conv", "Gemm"):
            if (
                k != 0
                or not has_own_bias(graph, node)
                or layer_from_node(graph, node).may_pad(graph.shapes.get(tensor, ()))
            ):
                return False
        elif node.op_type in ("Concat", "MaxPool"):
            # what they make must carry the same offset on, to readers that take it out
            after = [
                q for (n, i), q in paired.items() if n in {r.name for r, _ in graph.readers.get(node.output[0], [])}
            ]
            if not after or any(q != group for q in after):
                return False
            if not all(paired.get((r.name, i)) == group for r, i in graph.readers.get(node.output[0], [])):
                return False
        else:
            return False
    return True


def add_zero_point(scale: QuantParams) -> QuantParams:
    """The same largest value, from 255 steps above -128."""
    return QuantParams(scale.scale * 127 / 255, ZERO) if not scale.zero_point else scale


def fold_zero_points(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Mapping[str, QuantParams],
    weights: Mapping[str, QuantizedWeights],
) -> tuple[onnx.ModelProto, dict[str, QuantParams]]:
    """The graph in which the offsets of `scales` are in the biases and every zero point is 0.

    Activations that the saturation of a pair makes redundant are left out, and so are the initializers in `weights`,
    which the caller has as codes.
    """
    made = copy_model(model, without=weights)
    whole, graph = OnnxGraph(model), OnnxGraph(made)
    group = {q.tensor: q.scale_group for q in placement.activations}
    moved: dict[str, np.typing.NDArray[np.float64]] = {}
    gone: set[str] = set()

    def shift(bias: str, by: np.typing.NDArray[np.float64] | float) -> None:
        moved[bias] = moved.get(bias, graph.array(bias).astype(np.float64)) + by

    for q in placement.activations:
        scale = scales[group[q.tensor]]
        if scale.zero_point == 0:
            continue
        offset = -scale.zero_point * float(np.float32(scale.scale))
        chain = find_rectified(whole, q.tensor)
        if chain is not None:
            shift(chain.node.input[2], -offset)
            gone.update(n.name for n in chain.activations)
            graph.node[chain.node.name].output[0] = q.tensor
        for edge in q.edges:
            node = graph.node[edge.node]
            if node.op_type in ("Conv", "Gemm"):
                layer = layer_from_node(whole, node)
                matrix = layer.matrix(weights[layer.weight].dequantize())
                shift(layer.bias, matrix.sum(axis=2).reshape(-1) * offset)
    held = {i.name: i for i in made.graph.initializer}
    for name, value in moved.items():
        held[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    kept = [n for n in made.graph.node if n.name not in gone]
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made, {n: QuantParams(s.scale) if s.zero_point and s.dtype == "int8" else s for n, s in scales.items()}
