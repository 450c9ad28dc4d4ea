"""Q/DQ pairs into a prepared graph, where a placement says, with the scales and codes that were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.onnx_graph import OnnxGraph, copy_model
from edgecnn.quantization import (
    Array,
    Placement,
    QuantizedTensor,
    QuantizedWeight,
    QuantizedWeights,
    QuantParams,
    round_to_nearest,
)

Floats = npt.NDArray[np.float64]
SUFFIX_Q, SUFFIX_DQ = "_quantized", "_dequantized"
LARGEST_BIAS = 2.0**30  # as int32, with as much room again for the sum that it is added to


def insert_qdq(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Mapping[str, QuantParams],
    weights: Mapping[str, QuantizedWeights],
) -> onnx.ModelProto:
    """A copy of `model` with every pair of `placement`; `scales` by group, `weights` by initializer.

    Weights become int8 initializers behind DequantizeLinear. Under `ort-cpu` biases become int32.
    """
    made = copy_model(model, without=weights)
    graph = OnnxGraph(made)
    if placement.scheme == "ort-cpu":
        weights = _widen_weights_for_biases(graph, placement, scales, weights)
    before = _weight_nodes(graph, weights)
    if placement.scheme == "ort-cpu":
        before += _bias_nodes(graph, placement, scales, weights)
    after: dict[str, list[onnx.NodeProto]] = {}
    for quantized in placement.activations:
        after[quantized.tensor] = _pair_nodes(graph, quantized, scales[quantized.scale_group])
    nodes = [*before, *after.pop(graph.input, [])]
    for node in graph.nodes:
        outputs = [o for o in node.output if o in after]
        nodes.append(node)
        for output in outputs:
            nodes += after.pop(output)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    _remove_unused(made.graph)
    return made


def _pair_nodes(graph: OnnxGraph, quantized: QuantizedTensor, scale: QuantParams) -> list[onnx.NodeProto]:
    tensor = quantized.tensor
    dequantized = tensor + SUFFIX_DQ
    for edge in quantized.edges:
        if edge.node == "":
            raise GraphError(f"graph output {tensor!r} is not to be quantized", "logits stay float32")
        graph.node[edge.node].input[edge.index] = dequantized
    step, zero = f"{tensor}_scale", f"{tensor}_zero_point"
    graph.model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(scale.scale), step),
            numpy_helper.from_array(np.array(scale.zero_point, scale.dtype), zero),
        ]
    )
    return [
        helper.make_node("QuantizeLinear", [tensor, step, zero], [tensor + SUFFIX_Q], f"{tensor}_QuantizeLinear"),
        helper.make_node(
            "DequantizeLinear", [tensor + SUFFIX_Q, step, zero], [dequantized], f"{tensor}_DequantizeLinear"
        ),
    ]


def _weight_nodes(graph: OnnxGraph, weights: Mapping[str, QuantizedWeights]) -> list[onnx.NodeProto]:
    """The int8 initializer takes the name of the float one, so that a reader of the file finds it."""
    nodes = []
    for name, codes in weights.items():
        zero = np.zeros(codes.scale.shape if codes.axis is not None else (), np.int8)
        scale = codes.scale if codes.axis is not None else codes.scale.reshape(())
        graph.model.graph.initializer.append(numpy_helper.from_array(codes.codes, name))
        nodes.append(_dequantize_node(graph, name, name, scale, zero, codes.axis))
        for node, k in graph.readers[name]:
            node.input[k] = name + SUFFIX_DQ
    return nodes


def _widen_weights_for_biases(
    graph: OnnxGraph, placement: Placement, scales: Mapping[str, QuantParams], weights: Mapping[str, QuantizedWeights]
) -> dict[str, QuantizedWeights]:
    """Weights whose scales are large enough for their int32 biases.

    A channel with hardly any weights, as weight decay leaves them, has so small a scale that its bias would not fit;
    coarser codes cost such a channel less than 2^-23 of its bias.
    """
    made = dict(weights)
    for quantized, bias, step in _integer_biases(graph, placement, scales):
        codes = made[quantized.initializer]
        least = np.abs(bias).max() if codes.axis is None else np.abs(bias)
        wide = np.maximum(codes.scale, (least / (step * LARGEST_BIAS)).astype(np.float32))
        if (wide > codes.scale).any():
            made[quantized.initializer] = round_to_nearest(codes.dequantize(), wide, codes.axis)
    return made


def _bias_nodes(
    graph: OnnxGraph, placement: Placement, scales: Mapping[str, QuantParams], weights: Mapping[str, QuantizedWeights]
) -> list[onnx.NodeProto]:
    """int32 biases with scale = input scale x weight scale, as the integer kernels add them."""
    nodes = []
    for quantized, bias, input_step in _integer_biases(graph, placement, scales):
        node, codes = graph.node[quantized.node], weights[quantized.initializer]
        step = np.broadcast_to(codes.scale.astype(np.float64) * input_step, bias.shape)
        own = f"{node.name}_bias"
        axis = 0 if codes.axis is not None else None
        scale = step.astype(np.float32) if axis == 0 else np.float32(step.reshape(-1)[0])
        zero = np.zeros(step.shape if axis == 0 else (), np.int32)
        graph.model.graph.initializer.append(numpy_helper.from_array(np.rint(bias / step).astype(np.int32), own))
        nodes.append(_dequantize_node(graph, own, own, scale, zero, axis))
        node.input[2] = own + SUFFIX_DQ
    return nodes


def _integer_biases(
    graph: OnnxGraph, placement: Placement, scales: Mapping[str, QuantParams]
) -> Iterator[tuple[QuantizedWeight, Floats, float]]:
    """(weight, bias [channels], scale of the input) of every layer whose bias becomes int32."""
    group = {(e.node, e.index): q.scale_group for q in placement.activations for e in q.edges}
    for quantized in placement.weights:
        node = graph.node[quantized.node]
        name = node.input[2] if len(node.input) > 2 else ""
        per_output = name in graph.initializers and len(graph.initializers[name].dims) == 1
        if per_output and (node.name, 0) in group and node.op_type in ("Conv", "Gemm"):
            yield quantized, graph.array(name).reshape(-1).astype(np.float64), scales[group[node.name, 0]].scale


def _dequantize_node(
    graph: OnnxGraph,
    codes: str,
    name: str,
    scale: Array | np.float32,
    zero: npt.NDArray[np.signedinteger[Any]],
    axis: int | None,
) -> onnx.NodeProto:
    names = [codes, f"{name}_scale", f"{name}_zero_point"]
    arrays = [np.asarray(scale, np.float32), zero]
    graph.model.graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(arrays, names[1:], strict=True))
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return helper.make_node("DequantizeLinear", names, [name + SUFFIX_DQ], f"{name}_DequantizeLinear", **attributes)


def _remove_unused(graph: onnx.GraphProto) -> None:
    read = {i for n in graph.node for i in n.input}
    for k in reversed(range(len(graph.initializer))):
        if graph.initializer[k].name not in read:
            del graph.initializer[k]
    del graph.value_info[:]
