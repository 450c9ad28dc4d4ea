"""Q/DQ pairs into a prepared graph, where a placement says, with the scales and codes that were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.int8.codes import Array, Scale, WeightCodes
from edgecnn.graph.placement import Placement, QuantizedTensor
from edgecnn.graph.prepare import GraphIndex

SUFFIX_Q, SUFFIX_DQ = "_quantized", "_dequantized"


def insert_pairs(
    model: onnx.ModelProto, placement: Placement, scales: Mapping[str, Scale], weights: Mapping[str, WeightCodes]
) -> onnx.ModelProto:
    """A copy of `model` with every pair of `placement`; `scales` by group, `weights` by initialiser.

    Weights become int8 initialisers behind DequantizeLinear. For the `cpu` style biases become int32.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    index = GraphIndex(made)
    before = _quantised_weights(index, weights)
    if placement.style == "cpu":
        before += _integer_biases(index, placement, scales, weights)
    after: dict[str, list[onnx.NodeProto]] = {}
    for quantized in placement.activations:
        after[quantized.tensor] = _pair(index, quantized, scales[quantized.group])
    nodes = [*before, *after.pop(index.input, [])]
    for node in index.nodes:
        outputs = [o for o in node.output if o in after]
        nodes.append(node)
        for output in outputs:
            nodes += after.pop(output)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    _remove_unused(made.graph)
    return made


def _pair(index: GraphIndex, quantized: QuantizedTensor, scale: Scale) -> list[onnx.NodeProto]:
    tensor = quantized.tensor
    dequantized = tensor + SUFFIX_DQ
    for edge in quantized.edges:
        if edge.node == "":
            raise GraphError(f"graph output {tensor!r} is not to be quantised", "logits stay float32")
        index.node[edge.node].input[edge.index] = dequantized
    dtype = np.uint8 if scale.unsigned else np.int8
    step, zero = f"{tensor}_scale", f"{tensor}_zero_point"
    index.model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(scale.scale), step), numpy_helper.from_array(dtype(scale.zero), zero)]
    )
    return [
        helper.make_node("QuantizeLinear", [tensor, step, zero], [tensor + SUFFIX_Q], f"{tensor}_QuantizeLinear"),
        helper.make_node(
            "DequantizeLinear", [tensor + SUFFIX_Q, step, zero], [dequantized], f"{tensor}_DequantizeLinear"
        ),
    ]


def _quantised_weights(index: GraphIndex, weights: Mapping[str, WeightCodes]) -> list[onnx.NodeProto]:
    """The int8 initialiser takes the name of the float one, so that a reader of the file finds it."""
    nodes = []
    for name, codes in weights.items():
        zero = np.zeros(codes.scale.shape if codes.axis is not None else (), np.int8)
        scale = codes.scale if codes.axis is not None else codes.scale.reshape(())
        index.initializer[name].CopyFrom(numpy_helper.from_array(codes.codes, name))
        nodes.append(_dequantized(index, name, name, scale, zero, codes.axis))
        for node, k in index.readers[name]:
            node.input[k] = name + SUFFIX_DQ
    return nodes


def _integer_biases(
    index: GraphIndex, placement: Placement, scales: Mapping[str, Scale], weights: Mapping[str, WeightCodes]
) -> list[onnx.NodeProto]:
    """int32 biases with scale = input scale x weight scale, as the integer kernels add them."""
    group = {(e.node, e.index): q.group for q in placement.activations for e in q.edges}
    nodes = []
    for quantized in placement.weights:
        node, codes = index.node[quantized.node], weights[quantized.initializer]
        name = node.input[2] if len(node.input) > 2 else ""
        if name not in index.initializer or (node.name, 0) not in group or node.op_type not in ("Conv", "Gemm"):
            continue
        bias = index.array(name).reshape(-1).astype(np.float64)
        step = np.broadcast_to(codes.scale.astype(np.float64) * scales[group[node.name, 0]].scale, bias.shape)
        whole = np.clip(np.rint(bias / step), -(2**31), 2**31 - 1).astype(np.int32)
        own = f"{node.name}_bias"
        axis = 0 if codes.axis is not None else None
        scale = step.astype(np.float32) if axis == 0 else np.float32(step.reshape(-1)[0])
        zero = np.zeros(step.shape if axis == 0 else (), np.int32)
        index.model.graph.initializer.append(numpy_helper.from_array(whole, own))
        nodes.append(_dequantized(index, own, own, scale, zero, axis))
        node.input[2] = own + SUFFIX_DQ
    return nodes


def _dequantized(
    index: GraphIndex,
    codes: str,
    name: str,
    scale: Array | np.float32,
    zero: npt.NDArray[np.signedinteger[Any]],
    axis: int | None,
) -> onnx.NodeProto:
    names = [codes, f"{name}_scale", f"{name}_zero_point"]
    arrays = [np.asarray(scale, np.float32), zero]
    index.model.graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(arrays, names[1:], strict=True))
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return helper.make_node("DequantizeLinear", names, [name + SUFFIX_DQ], f"{name}_DequantizeLinear", **attributes)


def _remove_unused(graph: onnx.GraphProto) -> None:
    read = {i for n in graph.node for i in n.input}
    kept = [i for i in graph.initializer if i.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
