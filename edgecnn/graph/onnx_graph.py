"""An ONNX graph indexed for walking: who makes each tensor, who reads it, which tensors are constant."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from edgecnn.errors import GraphError

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True)
class View:
    """The nodes in the order of the graph, and its tensors by name; nothing in it is a copy."""

    nodes: tuple[onnx.NodeProto, ...]
    producer: dict[str, onnx.NodeProto]
    readers: dict[str, list[tuple[onnx.NodeProto, int]]]
    initializers: dict[str, onnx.TensorProto]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def outputs_of(self, node: onnx.NodeProto) -> list[str]:
        """The outputs of `node` that anybody reads."""
        return [name for name in node.output if name in self.readers or name in self.outputs]

    def is_constant(self, tensor: str) -> bool:
        """Whether `tensor` is an initialiser or comes from a Constant node."""
        made_by = self.producer.get(tensor)
        return tensor in self.initializers or (made_by is not None and made_by.op_type == "Constant")

    def varying(self, node: onnx.NodeProto) -> list[tuple[int, str]]:
        """The inputs of `node` that depend on the image: (index, tensor)."""
        return [(i, name) for i, name in enumerate(node.input) if name and not self.is_constant(name)]

    def weighted(self) -> Iterator[onnx.NodeProto]:
        """Every Conv, Gemm and MatMul, but a MatMul of two activations."""
        return (n for n in self.nodes if n.op_type in WEIGHTED and not (n.op_type == "MatMul" and self._both_vary(n)))

    def _both_vary(self, node: onnx.NodeProto) -> bool:
        return {0, 1} <= {i for i, name in self.varying(node) if self._source(name) is None}

    def _source(self, tensor: str) -> str | None:
        """The initialiser that `tensor` holds, directly or through Q/DQ nodes; None when it is computed."""
        while (made_by := self.producer.get(tensor)) is not None and made_by.op_type in QUANTISED:
            tensor = made_by.input[0]
        return tensor if self.is_constant(tensor) else None


def view_of(model: onnx.ModelProto) -> View:
    """Index `model.graph`; raises `GraphError` on control flow, whose inner graphs would be missed."""
    graph = model.graph
    producer: dict[str, onnx.NodeProto] = {}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise GraphError(
                f"node {node.name!r}: {node.op_type} holds a graph of its own",
                "export the network without control flow: a classifier needs none",
            )
        producer.update((name, node) for name in node.output if name)
        for index, name in enumerate(node.input):
            if name:
                readers.setdefault(name, []).append((node, index))
    initializers = {t.name: t for t in graph.initializer}
    inputs = tuple(i.name for i in graph.input if i.name not in initializers)
    return View(tuple(graph.node), producer, readers, initializers, inputs, tuple(o.name for o in graph.output))


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute of `node`, or its default."""
    return next((a.i for a in node.attribute if a.name == name), default)


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name every node that has no name, or one used before, after the first tensor it makes; returns `model`."""
    seen: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}:{node.output[0]}"
        seen.add(node.name)
    return model


def without_weights(model: onnx.ModelProto, keep: int = 256) -> onnx.ModelProto:
    """The graph with its large initialisers as typed inputs: enough for inference of shapes and types, and small."""
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    graph = model.graph
    bare.graph.name = graph.name
    bare.graph.node.extend(graph.node)
    for field in ("input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(graph, field))
    known = {i.name for i in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= keep:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in known:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The inferred shape of every tensor that has one; None for an axis that is not fixed."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
    shapes: dict[str, tuple[int | None, ...]] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            shapes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return shapes


def multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of one image in every Conv, Gemm and MatMul, by the name of the node's first output.

    Raises `GraphError` naming the node whose shapes cannot be inferred.
    """
    shapes = shapes_of(model)
    counts = {}
    for node in view_of(model).weighted():
        weight, out = shapes.get(node.input[1]), shapes.get(node.output[0])
        if weight is None or out is None or None in out[1:] or None in weight:
            raise GraphError(
                f"node {node.name!r}: the shapes around this {node.op_type} cannot be inferred",
                "export the network with a fixed height and width (only the batch may be dynamic)",
            )
        size = math.prod(d for d in out[1:] if d is not None)
        if node.op_type == "Conv":
            inner = math.prod(d for d in weight[1:] if d is not None)
        else:
            inner = weight[1 if attribute(node, "transB", 0) else 0] or 0
        counts[node.output[0]] = size * inner
    return counts
