"""What the output channels of a layer can bear: how much of their weights may be lost before it shows behind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.quantization import FP16_SMALLEST, NOTICED, Placement, QuantizedWeight, QuantParams

Floats = npt.NDArray[np.floating]
_FUSED = frozenset({"Relu", "Clip", "Add", "MaxPool"})  # with the layer before, or all the same to its channels
_ZERO = 2.0**-25  # what is smaller is 0 in FP16
_OF_A_STEP = 1.0 / 8  # of the INT8 tensor that the channel goes into: lost in its rounding


def find_tolerated_shares(
    graph: OnnxGraph,
    placement: Placement,
    weight: QuantizedWeight,
    tensors: Mapping[str, TensorStatistics],
    scales: Mapping[str, QuantParams],
) -> Floats | float:
    """[channels]: the share of what `weight` makes of its input that may be lost in each channel; infinite for a dead
    channel, which is 0 or rounded to 0 in FP16. `NOTICED` where calibration has not seen the channels.

    A loss counts beside the largest value that the channel had behind its bias, residual sum and activation, which are
    fused with it, and beside a step of the INT8 tensor that this becomes, if all that read it read that.
    """
    node = graph.node[weight.node]
    if node.op_type == "MatMul" and len(graph.shapes.get(node.output[0], ())) != 2:
        return NOTICED  # its channels are the last axis, and those of the statistics the second
    bias = _bias_of(graph, node)
    behind = _observed_behind(graph, node.output[0], tensors)
    if not behind or np.size(bias) not in (1, len(tensors[behind[0]].channel_high)):
        return NOTICED
    own, tensor, seen = tensors[behind[0]], behind[-1], tensors[behind[-1]]
    if any(0 < tensors[name].largest < FP16_SMALLEST for name in behind):
        return 0.0  # the layer computes in float32 as it is
    made = np.abs(own.channel_high - bias)
    if behind[0] == node.output[0]:  # else it is seen behind its activation, and what was cut off there is no loss
        made = np.maximum(made, np.abs(own.channel_low - bias))
    largest = np.maximum(np.abs(seen.channel_high), np.abs(seen.channel_low))
    paired = {q.tensor: q for q in placement.activations}
    step = 0.0
    if tensor in paired and len(paired[tensor].edges) == len(graph.readers[tensor]):
        step = scales[paired[tensor].scale_group].scale
    borne = np.maximum(NOTICED * largest, _OF_A_STEP * step)
    shares = np.divide(borne, made, out=np.full(len(made), np.inf), where=made > 0)
    return np.where(largest < _ZERO, np.inf, shares)


def _observed_behind(graph: OnnxGraph, tensor: str, tensors: Mapping[str, TensorStatistics]) -> list[str]:
    """Those of `tensor` and the tensors with the same channels that are fused with it of which there are statistics."""
    made = [tensor]
    while len(readers := graph.readers.get(made[-1], [])) == 1 and readers[0][0].op_type in _FUSED:
        made.append(readers[0][0].output[0])
    seen = [name for name in made if name in tensors and tensors[name].scale is None]
    return [name for name in seen if len(tensors[name].channel_high) == len(tensors[seen[0]].channel_high)]


def _bias_of(graph: OnnxGraph, node: onnx.NodeProto) -> Floats | float:
    """[channels]: the constant that `node` adds to its outputs; 0 where none is known."""
    name = node.input[2] if len(node.input) > 2 else ""
    per_output = name in graph.initializers and len(graph.initializers[name].dims) == 1
    return graph.array(name).astype(np.float64) if per_output else 0.0
