"""The one index of an ONNX graph: who makes each tensor, who reads it, which are constant, their shapes and types."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecnn.errors import GraphError

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
PRODUCTS = WEIGHTED | {"ConvTranspose"}
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})

Shape = tuple[int | None, ...]  # None for an axis that is not fixed
Value = TypeVar("Value")


class OnnxGraph:
    """The nodes of a model in the order of its graph, and its tensors by name; nothing in it is a copy.

    `shapes` and `types` are those that the file states. A graph within a node (control flow) is not looked into.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = tuple(graph.node)
        self.producer: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.nodes:
            self.producer.update((name, node) for name in node.output if name)
            for index, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, []).append((node, index))
        self.node = {node.name: node for node in self.nodes}
        self.initializers = {t.name: t for t in graph.initializer}
        self.inputs: tuple[str, ...] = tuple(i.name for i in graph.input if i.name not in self.initializers)
        self.outputs: tuple[str, ...] = tuple(o.name for o in graph.output)
        infos = (*graph.value_info, *graph.input, *graph.output)
        self.types = {v.name: v.type.tensor_type.elem_type for v in infos}
        self.shapes: dict[str, Shape] = {v.name: shape_of(v) for v in infos if v.type.tensor_type.HasField("shape")}
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    @property
    def input(self) -> str:
        """The first input that is no initializer: a classifier has no other."""
        return self.inputs[0]

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]

    def array(self, name: str) -> npt.NDArray[Any]:
        """The value of initializer `name`, decoded when it is first asked for."""
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self.initializers[name])
        return self._arrays[name]

    def is_activation(self, name: str) -> bool:
        """Whether `name` is a float32 tensor that depends on the input and has a batch axis."""
        return (
            name not in self.initializers
            and self.types.get(name) == onnx.TensorProto.FLOAT
            and len(self.shapes.get(name, ())) >= 2
        )

    def is_constant(self, tensor: str) -> bool:
        """Whether `tensor` is an initializer or comes from a Constant node."""
        made_by = self.producer.get(tensor)
        return tensor in self.initializers or (made_by is not None and made_by.op_type == "Constant")

    def outputs_of(self, node: onnx.NodeProto) -> list[str]:
        """The outputs of `node` that anybody reads."""
        return [name for name in node.output if name in self.readers or name in self.outputs]

    def varying(self, node: onnx.NodeProto) -> list[tuple[int, str]]:
        """The inputs of `node` that depend on the image: (index, tensor)."""
        return [(i, name) for i, name in enumerate(node.input) if name and not self.is_constant(name)]

    def products(self) -> Iterator[onnx.NodeProto]:
        """Every node that multiplies and adds: Conv, ConvTranspose, Gemm and MatMul, of weights or of activations."""
        return (n for n in self.nodes if n.op_type in PRODUCTS)

    def weighted(self) -> Iterator[onnx.NodeProto]:
        """The Conv, Gemm and MatMul that can be INT8: an activation first, then a constant weight."""
        return (n for n in self.products() if n.op_type in WEIGHTED and self._has_weight(n))

    def _has_weight(self, node: onnx.NodeProto) -> bool:
        first, second = [*node.input, "", ""][:2]  # a damaged node may have fewer
        return self._source(second) is not None and self._source(first) is None

    def _source(self, tensor: str) -> str | None:
        """The initializer that `tensor` holds, directly or through Q/DQ nodes; None when it is computed."""
        while (made_by := self.producer.get(tensor)) is not None and made_by.op_type in QDQ:
            tensor = made_by.input[0]
        return tensor if self.is_constant(tensor) else None


def flat_graph(model: onnx.ModelProto) -> OnnxGraph:
    """Index `model`; raises `GraphError` on control flow, whose inner graphs would be missed."""
    graph = OnnxGraph(model)
    for node in graph.nodes:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise GraphError(
                f"node {node.name!r}: {node.op_type} holds a graph of its own",
                "export the network without control flow: a classifier needs none",
            )
    return graph


def attribute(node: onnx.NodeProto, name: str, default: Value) -> Value:
    """The value of an attribute of `node`, or `default`, whose type it has; a list of numbers comes as a tuple."""
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return cast(Value, tuple(found) if isinstance(found, list) else found)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that `model` is written in; 0 where it does not say."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def node_label(node: onnx.NodeProto) -> str:
    """How messages call a node: its name, or the tensor it makes."""
    return repr(node.name or (node.output[0] if node.output else node.op_type))


def shape_of(info: onnx.ValueInfoProto) -> Shape:
    """The shape that a value states."""
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


def clip_bounds(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[float, float]:
    """(low, high) of a Relu, or of a Clip with constant bounds; infinite where there is none, NaN where computed."""
    bounds = [0.0 if node.op_type == "Relu" else -np.inf, np.inf]
    for k, name in enumerate(node.input[1:3]):
        if name:
            bounds[k] = float(graph.array(name).reshape(-1)[0]) if name in graph.initializers else np.nan
    return bounds[0], bounds[1]


def type_name(kind: int) -> str:
    """The name of an element type, also of one that is none ("type 127"), as in a damaged file."""
    known = onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(kind).lower() if kind in known else f"type {kind}"


def copy_model(model: onnx.ModelProto, without: Container[str] = ()) -> onnx.ModelProto:
    """A copy of `model` but for the initializers named in `without`, which are not copied even once."""
    made = onnx.ModelProto()
    for message, copy in ((model, made), (model.graph, made.graph)):
        for field, value in message.ListFields():
            if field.name == "initializer":
                made.graph.initializer.extend(i for i in value if i.name not in without)
            elif isinstance(value, (str, int)):
                setattr(copy, field.name, value)
            elif field.name != "graph":
                getattr(copy, field.name).extend(value)
    return made


def without_weights(model: onnx.ModelProto, keep: int = 256) -> onnx.ModelProto:
    """The graph with its large initializers as typed inputs: enough for inference of shapes and types, and small."""
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


def infer_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """The inferred shape of every tensor that has one; None for an axis that is not fixed."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        if info.type.tensor_type.HasField("shape"):
            shapes[info.name] = shape_of(info)
    return shapes


def count_multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of one image in every Conv, ConvTranspose, Gemm and MatMul, of weights or of activations, by the
    name of the node's first output.

    Raises `GraphError` naming the node whose shapes cannot be inferred.
    """
    shapes = infer_shapes(model)
    counts = {}
    for node in flat_graph(model).products():
        given, weight, out = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
        if node.op_type == "ConvTranspose":
            made, factors = given, None if weight is None else weight[1:]
        elif node.op_type == "Conv":
            made, factors = out, None if weight is None else weight[1:]
        else:
            made, factors = out, None if weight is None else weight[-1 if attribute(node, "transB", 0) else -2 :][:1]
        sizes = None if made is None or factors is None else (*made[1:], *factors)
        if sizes is None or any(size is None for size in sizes):
            raise GraphError(
                f"node {node.name!r}: the shapes around this {node.op_type} cannot be inferred",
                "export the network with a fixed height and width (only the batch may be dynamic)",
            )
        counts[node.output[0]] = math.prod(size for size in sizes if size is not None)
    return counts
