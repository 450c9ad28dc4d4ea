"""Zero points for TensorRT, which has none: an offset of a tensor folded into the biases on either side.

A tensor that is never negative uses half of int8. Stored as x - 128 steps it uses all of it. The convolution that makes
x takes the offset into its bias, where saturation at -128 is the ReLU; the ones that read x take it out of theirs. That
needs readers without padding (zeros would no longer be zeros): 1x1 convolutions, Gemm, and what only moves data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from edgecnn.graph.int8.codes import Scale, WeightCodes
from edgecnn.graph.int8.patches import layer_of
from edgecnn.graph.placement import Placement
from edgecnn.graph.prepare import GraphIndex, copied

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
        if all(_made_with_bias(index, t, paired, group) and _taken_out(index, t, paired, group) for t in tensors):
            found.add(group)
    return found


def _made_with_bias(index: GraphIndex, tensor: str, paired: Mapping[tuple[str, int], str], group: str) -> bool:
    """Behind a ReLU of a weighted node, or a Concat or MaxPool of tensors of the same group."""
    node = index.maker.get(tensor)
    if node is None:
        return False
    if node.op_type in ("Concat", "MaxPool"):
        return all(paired.get((node.name, k)) == group for k in range(len(node.input)))
    chain = rectified(index, tensor)
    return chain is not None


def rectified(index: GraphIndex, tensor: str) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """(the Conv or Gemm, the activations behind it) that make `tensor` and are read by nobody else; else None."""
    passed: list[onnx.NodeProto] = []
    name = tensor
    while (node := index.maker.get(name)) is not None and node.op_type in _ACTIVATIONS:
        passed.append(node)
        name = node.input[0]
        if len(index.readers[name]) != 1 or name == index.output:
            return None
    if node is None or node.op_type not in ("Conv", "Gemm") or not passed:
        return None
    bias = node.input[2] if len(node.input) > 2 else ""
    own = bias in index.initializer and len(index.readers[bias]) == 1
    return (node, passed) if own else None


def _taken_out(index: GraphIndex, tensor: str, paired: Mapping[tuple[str, int], str], group: str) -> bool:
    for node, k in index.readers.get(tensor, []):
        if paired.get((node.name, k)) != group:
            return False
        if node.op_type in ("Conv", "Gemm"):
            layer = layer_of(index, node)
            bias = len(node.input) > 2 and node.input[2] in index.initializer
            if k != 0 or any(layer.pads) or not bias or len(index.readers[node.input[2]]) != 1:
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
        chain = rectified(index, q.tensor)
        if chain is not None:
            shift(chain[0].input[2], -offset)
            gone.update(n.name for n in chain[1])
            index.node[chain[0].name].output[0] = q.tensor
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
