"""A float32 graph -> the same graph in FP16, float32 at its boundary; with or without Q/DQ pairs in it.

Initializers become real FP16, tensors are typed FP16, and Casts stand where the types meet. What does not fit FP16
stays float32 and is named: tensors whose calibrated values come near its limit or are all below its normal numbers,
weights beyond or below it, scales that are no normal FP16 numbers, an epsilon that would be 0, operators whose sums
inside may come to more than FP16 holds, and those that ONNX has in float32 alone. So does, unnamed, the average of an
ensemble, as the Softmax behind a classifier. A layer that reads an INT8 tensor in
float32 gets a DequantizeLinear of its own, with a float32 scale, since a Cast between the two would end the INT8
computation. Without ranges only the weights can be checked. BatchNormalization becomes Mul and Add: its variance and
epsilon lose their digits in FP16, the quotients do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.ensemble import average_nodes
from edgecnn.graph.inner_sums import largest_sum
from edgecnn.graph.onnx_graph import (
    QDQ,
    OnnxGraph,
    Shape,
    attribute,
    flat_graph,
    infer_shapes,
    type_name,
    without_weights,
)
from edgecnn.graph.qdq.pairs import MOVES
from edgecnn.graph.simplify import simplify_graph

LIMIT = 65504.0
MARGIN = 2.0  # calibration sees some images, not all of them
NORMAL = 2.0**-14  # below it FP16 loses digits
LARGEST_CODE = 128.0  # of int8: times its scale it must be an FP16 number too
_WITHOUT_FP16 = "build the FP32 graph, or INT8 with --around fp32"

_F32, _F16 = TensorProto.FLOAT, TensorProto.FLOAT16
# Inputs that are float32 whatever the node computes in: (operator, input).
_ALWAYS_F32 = frozenset({("Resize", 1), ("Resize", 2), ("Dropout", 1)})
# Bounds and fillers may be cut to the largest FP16 number: no FP16 value lies beyond.
_BOUNDS = frozenset({("Clip", 1), ("Clip", 2), ("Pad", 2)})
_F32_ALONE = frozenset({"Celu"})  # operators that ONNX defines for no other type


class Observed(Protocol):
    """What calibration saw of one tensor: its `largest` absolute value and its lowest value."""

    @property
    def largest(self) -> float: ...

    @property
    def low(self) -> float: ...


class ObservedTensors(Protocol):
    """Calibration ranges by tensor name."""

    @property
    def tensors(self) -> Mapping[str, Observed]: ...


def to_fp16(
    model: onnx.ModelProto, ranges: ObservedTensors | None = None, *, features: bool = False
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The FP16 graph of a float32 graph (prepared first) or of one with Q/DQ pairs, and what stayed float32.

    The names that come back are tensors whose calibrated values exceed half of FP16's limit or are all below its
    normal numbers, and initializers that FP16 cannot hold; the nodes that touch them compute in float32. So do nodes
    that may add up more than FP16 holds, which are named by their result. With `features` there may be several outputs.
    Raises `GraphError` when the graph holds FP16 already, or a tensor did not get the type that it should have.
    """
    require_no_fp16(model)
    quantized = any(node.op_type in QDQ for node in model.graph.node)
    ready = _unfold_batch_norm(model if quantized else simplify_graph(model, features=features))
    graph = flat_graph(ready)
    types = _find_float_tensors(ready)
    average = {name: None for node in average_nodes(graph.nodes) for name in node.output}
    wide = _find_wide(graph, types, {} if ranges is None else ranges.tensors, average)
    sums = {} if ranges is None else _sums(graph, infer_shapes(ready), ranges.tensors)
    sums |= {node.output[0]: None for node in graph.nodes if node.op_type in _F32_ALONE}
    writer = _Writer(graph, types, wide, {**sums, **average})
    made = writer.written(ready)
    _assert_types(made, writer.planned)
    return made, _in_order(graph, {**wide, **{name: None for name in sums if name not in average}})


def require_no_fp16(model: onnx.ModelProto) -> None:
    """Raise `GraphError` naming the first tensor or node that is FP16 or bfloat16 already."""
    half = (_F16, TensorProto.BFLOAT16)
    found = [repr(t.name) for t in model.graph.initializer if t.data_type in half]
    found += [repr(v.name) for v in model.graph.input if v.type.tensor_type.elem_type in half]
    casts = (n for n in model.graph.node if n.op_type == "Cast" and attribute(n, "to", 0) in half)
    found += [repr(n.name or n.output[0]) for n in casts]
    if found:
        raise GraphError(f"the graph is FP16 already ({found[0]} is)", "start from the FP32 graph")


def _unfold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """BatchNormalization as Mul and Add of per-channel constants; the rest of the graph is shared, not copied."""
    if not any(node.op_type == "BatchNormalization" for node in model.graph.node):
        return model
    arrays = {t.name: t for t in model.graph.initializer}
    done = onnx.ModelProto()
    done.CopyFrom(without_initializers(model))
    done.graph.initializer.extend(model.graph.initializer)
    nodes = list(done.graph.node)
    del done.graph.node[:]
    shapes = infer_shapes(model)
    for node in nodes:
        if node.op_type != "BatchNormalization" or any(name not in arrays for name in node.input[1:5]):
            done.graph.node.append(node)
            continue
        gamma, beta, mean, var = (numpy_helper.to_array(arrays[n]).astype(np.float64) for n in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(var + epsilon)
        middle = f"{node.output[0]}_scaled"
        rank = len(shapes.get(node.input[0], (None,) * 4))
        for name, value in (("factor", factor), ("shift", beta - mean * factor)):
            shaped = value.astype(np.float32).reshape(-1, *[1] * (rank - 2))
            done.graph.initializer.append(numpy_helper.from_array(shaped, f"{node.output[0]}_{name}"))
        done.graph.node.extend(
            [
                helper.make_node("Mul", [node.input[0], f"{node.output[0]}_factor"], [middle], f"{node.name}_factor"),
                helper.make_node("Add", [middle, f"{node.output[0]}_shift"], [node.output[0]], f"{node.name}_shift"),
            ]
        )
    return done


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything of `model` but its weights."""
    bare = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, metadata_props=model.metadata_props
    )
    bare.producer_name = model.producer_name
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    return bare


def _find_float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """The names of all tensors that are float32 now."""
    graph = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
    infos = (*graph.input, *graph.value_info, *graph.output)
    known = {i.name: i.type.tensor_type.elem_type for i in infos}
    known.update((t.name, t.data_type) for t in model.graph.initializer)
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                raise GraphError(
                    f"node {node.name!r}: the type of {name!r} cannot be inferred",
                    "export the network with standard operators of opset 19",
                )
    return frozenset(name for name, kind in known.items() if kind == _F32)


def _find_wide(
    graph: OnnxGraph, floats: frozenset[str], seen: Mapping[str, Observed], average: Mapping[str, None]
) -> dict[str, None]:
    """The activations and initializers that FP16 cannot hold; the results of an `average` are float32 anyway."""
    largest, _ = _bounds(graph, seen)
    wide = dict.fromkeys(n for n in graph.inputs if not _is_half(largest.get(n, 0.0)))
    for node in graph.nodes:
        if node.output[0] in average:
            continue
        for index, name in enumerate(node.input):
            if name not in floats or name not in graph.initializers:
                continue
            vanishes = _vanishes(graph, node, index)
            if vanishes or not _fits(graph, node, index):
                wide[name] = None
            if vanishes or (name in wide and node.op_type in QDQ):
                wide.update((output, None) for output in node.output if output in floats)
        wide.update((n, None) for n in node.output if n in floats and not _is_half(largest.get(n, 0.0)))
    return wide


def _sums(graph: OnnxGraph, shapes: Mapping[str, Shape], seen: Mapping[str, Observed]) -> dict[str, None]:
    """The results of nodes that may add up more than FP16 holds on the way to them."""
    largest, low = _bounds(graph, seen)
    return {
        node.output[0]: None
        for node in graph.nodes
        if largest_sum(node, shapes, graph.initializers, largest, low, MARGIN) > LIMIT
    }


def _in_order(graph: OnnxGraph, names: Mapping[str, None]) -> tuple[str, ...]:
    """`names` in the order in which the graph reads or makes them."""
    order = [*graph.inputs, *(name for node in graph.nodes for name in (*node.input, *node.output))]
    return tuple(dict.fromkeys(name for name in order if name in names))


def _bounds(graph: OnnxGraph, seen: Mapping[str, Observed]) -> tuple[dict[str, float], dict[str, float]]:
    """The largest absolute value of every tensor, and the lowest, as far as they were seen or follow from that."""
    largest = _seen_before_activations(graph, {n: t.largest for n, t in seen.items()})
    low = {n: t.low for n, t in seen.items()}
    for node in graph.nodes:
        for name in node.output:
            if node.input and node.op_type in MOVES | QDQ | {"Relu"} and node.input[0] in largest:
                largest.setdefault(name, largest[node.input[0]])
                low.setdefault(name, low.get(node.input[0], -largest[name]))
            if node.op_type == "Relu":
                low[name] = max(low.get(name, 0.0), 0.0)
    return largest, low


def _is_half(largest: float) -> bool:
    """Whether FP16 holds a tensor whose largest absolute value on the calibration images was this."""
    return largest == 0 or NORMAL <= largest <= LIMIT / MARGIN


def _seen_before_activations(graph: OnnxGraph, largest: Mapping[str, float]) -> dict[str, float]:
    """`largest`, and what follows from it for the tensors that calibration passes over because they are fused."""
    seen = dict(largest)
    for node in reversed(graph.nodes):
        value = seen.get(node.output[0])
        varying = graph.varying(node)
        if value is None or len(varying) != 1 or varying[0][1] in seen:
            continue
        if node.op_type == "Relu":
            seen[varying[0][1]] = value
        elif node.op_type == "Add":
            shift = numpy_helper.to_array(graph.initializers[node.input[1 - varying[0][0]]])
            seen[varying[0][1]] = value + float(np.abs(shift).max(initial=0.0))
    return seen


def _fits(graph: OnnxGraph, node: onnx.NodeProto, index: int) -> bool:
    """Whether FP16 holds the initializer that is input `index` of `node` well enough for what the node does with it."""
    if (node.op_type, index) in _ALWAYS_F32 | _BOUNDS:
        return True
    name = node.input[index]
    values = numpy_helper.to_array(graph.initializers[name])
    largest = float(np.maximum(values.max(initial=0.0), -values.min(initial=0.0)))
    if node.op_type in QDQ:
        return float(values.min(initial=NORMAL)) >= NORMAL and largest * LARGEST_CODE <= LIMIT
    multiplies = node.op_type in ("Conv", "Gemm", "MatMul", "Mul") and index < 2
    return largest <= LIMIT and not (multiplies and 0 < largest < NORMAL)


def _vanishes(graph: OnnxGraph, node: onnx.NodeProto, index: int) -> bool:
    """Whether input `index` of `node` keeps a sum or a maximum from 0, as in x / (|x| + 1e-8), and is 0 in FP16."""
    if node.op_type not in ("Add", "Max") and (node.op_type, index) != ("Clip", 1):
        return False
    largest = float(np.abs(numpy_helper.to_array(graph.initializers[node.input[index]])).max(initial=0.0))
    return largest > 0 and np.float16(largest) == 0


class _Writer:
    """Writes the nodes again with the types decided, adding a Cast where a reader needs the other type."""

    def __init__(self, graph: OnnxGraph, floats: frozenset[str], wide: Iterable[str], sums: Iterable[str]) -> None:
        self._graph, self._floats, self._wide, self._sums = graph, floats, frozenset(wide), frozenset(sums)
        self._half = {id(node) for node in graph.nodes if self._can_be_half(node)}
        self._half -= {id(node) for node in graph.nodes if self._is_read_in_float32_alone(node)}
        self.planned = {name: _F32 for name in graph.inputs if name in floats}
        for node in graph.nodes:
            kind = _F16 if id(node) in self._half else _F32
            self.planned.update((name, kind) for name in node.output if name in floats)
        self._inside = {o: f"{o}_fp16" for o in graph.outputs if self.planned.get(o) == _F16}
        self._nodes: list[onnx.NodeProto] = []
        self._cast: dict[tuple[str, int], str] = {}

    def written(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The graph of `model` in the planned types."""
        made = without_initializers(model)
        for node in self._graph.nodes:
            half = id(node) in self._half
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [self._read(node, i, half) for i in range(len(node.input))]
            copy.output[:] = [self._inside.get(name, name) for name in node.output]
            self._nodes.append(copy)
        for name, inside in self._inside.items():
            self._nodes.append(helper.make_node("Cast", [inside], [name], f"{name}_cast", to=_F32))
            self.planned[inside], self.planned[name] = _F16, _F32
        del made.graph.node[:]
        made.graph.node.extend(self._nodes)
        read = {name for node in self._nodes for name in node.input}
        for tensor in model.graph.initializer:
            if tensor.name in read:
                made.graph.initializer.append(tensor)
            if (name := _half_name(tensor.name)) in read and tensor.name in self._floats:
                made.graph.initializer.append(_round_to_half(tensor, name))
        return made

    def _can_be_half(self, node: onnx.NodeProto) -> bool:
        reads = [n for i, n in enumerate(node.input) if n in self._floats and (node.op_type, i) not in _ALWAYS_F32]
        touches = {*reads, *(name for name in node.output if name in self._floats)}
        fits = not touches & self._wide and self._sums.isdisjoint(node.output)
        return bool(reads) and node.op_type != "Cast" and fits

    def _is_read_in_float32_alone(self, node: onnx.NodeProto) -> bool:
        readers = [reader for reader, _ in self._graph.readers.get(node.output[0], [])]
        return node.op_type == "DequantizeLinear" and all(id(reader) not in self._half for reader in readers)

    def _read(self, node: onnx.NodeProto, index: int, half: bool) -> str:
        """The name under which `node` reads its input `index`, after adding the Cast that this takes."""
        name = str(node.input[index])
        kind = _F16 if half and (node.op_type, index) not in _ALWAYS_F32 else _F32
        if name not in self._floats:
            return name
        if name in self._graph.initializers:
            return _half_name(name) if kind == _F16 else name
        inside = self._inside.get(name, name)
        if self.planned[name] == kind:
            return inside
        if (name, kind) not in self._cast:
            cast = f"{name}_as_{'fp16' if kind == _F16 else 'fp32'}"
            made_by = self._graph.producer.get(name)
            if made_by is not None and made_by.op_type == "DequantizeLinear":
                twin = onnx.NodeProto()
                twin.CopyFrom(made_by)
                twin.name, twin.output[0] = cast, cast
                self._nodes.append(twin)
            else:
                self._nodes.append(helper.make_node("Cast", [inside], [cast], cast, to=kind))
            self._cast[name, kind] = cast
            self.planned[cast] = kind
        return self._cast[name, kind]


def _half_name(name: str) -> str:
    return f"{name}_fp16"


def _round_to_half(tensor: TensorProto, name: str) -> TensorProto:
    array = numpy_helper.to_array(tensor)
    if array.size == 1:  # a bound may lie beyond: -inf stays, the largest float32 becomes the largest FP16
        array = np.where(np.isinf(array), array, np.clip(array, -LIMIT, LIMIT))
    return numpy_helper.from_array(array.astype(np.float16), name)


def _assert_types(model: onnx.ModelProto, planned: Mapping[str, int]) -> None:
    """Raise `GraphError` unless inference gives every tensor the type that was planned for it."""
    bare = without_weights(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as exc:
        raise GraphError(f"the types of the FP16 graph do not fit: {exc}", _WITHOUT_FP16) from exc
    infos = (*inferred.input, *inferred.value_info, *inferred.output)
    found = {info.name: info.type.tensor_type.elem_type for info in infos}
    for name, kind in planned.items():
        if found.get(name) != kind:
            got = type_name(found.get(name, 0))
            raise GraphError(
                f"tensor {name!r} should be {type_name(kind)} in the FP16 graph, found {got}",
                _WITHOUT_FP16,
            )
