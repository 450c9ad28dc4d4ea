"""Floats of other widths: weights stored in half a float and cast, and whole graphs in FP16, BF16 or double."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.errors import BackendError, GraphError
from edgecnn.graph.importing.names import graphs_in, replace_tensor
from edgecnn.graph.onnx_graph import attribute, node_label, type_name
from edgecnn.session import Array

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_OTHERS = (*_HALF, TensorProto.DOUBLE)
_LIFT = "import the float32 graph it was made from, or lift this one: --to-float32"
LIFTED_DIFFERENCE: dict[int, float] = {TensorProto.FLOAT16: 2e-2, TensorProto.BFLOAT16: 1e-1, TensorProto.DOUBLE: 1e-4}
"""Of max |logit|: what a graph may differ from itself in float32. FP16 has 11 bits, BF16 8."""


def fold_weight_casts(model: onnx.ModelProto) -> list[str]:
    """Weights that are stored in another width and cast to float32 become what the casts make of them."""
    graph = model.graph
    stored = _constants(graph)
    folded = 0
    for node in [n for n in graph.node if n.op_type == "Cast" and n.input[0] in stored]:
        tensor = stored[node.input[0]]
        if tensor.data_type in _OTHERS and attribute(node, "to", 0) == TensorProto.FLOAT:
            graph.initializer.append(numpy_helper.from_array(_as_float32(tensor), node.output[0]))
            graph.node.remove(node)
            folded += 1
    read = {name for g in graphs_in(graph) for n in g.node for name in n.input} | {o.name for o in graph.output}
    for node in [n for n in graph.node if n.op_type == "Constant" and n.output[0] not in read]:
        graph.node.remove(node)
    for tensor in [i for i in graph.initializer if i.data_type in _OTHERS and i.name not in read]:
        graph.initializer.remove(tensor)
    return [f"{folded} weights stored in another width and cast made float32, as their casts do"] if folded else []


def require_float32(model: onnx.ModelProto) -> None:
    """Raise `GraphError` for a graph whose input, weights or constants are floats of another width, or that computes in
    16 bits between casts (in double it may compute sizes, which become constants)."""
    held = [(f"initializer {i.name!r}", i.data_type) for i in model.graph.initializer]
    held += [(f"constant {name!r}", t.data_type) for name, t in _constants(model.graph).items()]
    held = [(f"input {i.name!r}", i.type.tensor_type.elem_type) for i in model.graph.input] + held
    for what, kind in held:
        if kind in _OTHERS:
            raise GraphError(f"{what} is {type_name(kind)}", _LIFT)
    require_no_casts(model, _HALF)


def require_no_casts(model: onnx.ModelProto, kinds: Collection[int] = _OTHERS) -> None:
    """Raise `GraphError` for a graph that computes in floats of another width between casts."""
    for node, kind in _casts(model.graph):
        if kind in kinds:
            raise GraphError(f"what node {node_label(node)} makes is {type_name(kind)}", _LIFT)


def lift_to_float32(model: onnx.ModelProto) -> list[str]:
    """Make every float of the graph, FP16, BF16 or double, float32 in place, and drop the casts between them; raises
    `GraphError` for a double that float32 cannot hold."""
    kinds = [type_name(k) for k in sorted(_other_kinds(model))]
    floats = {name for name, kind in _types(model).items() if kind in (*_OTHERS, TensorProto.FLOAT)}
    for graph in graphs_in(model.graph):
        for tensor in graph.initializer:
            _lift(tensor)
        for node in graph.node:
            for attr in node.attribute:
                if attr.HasField("t"):
                    _lift(attr.t)
                if node.op_type == "Cast" and attr.name == "to" and attr.i in _OTHERS:
                    attr.i = TensorProto.FLOAT
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in _OTHERS:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        del graph.value_info[:]
    _drop_casts(model.graph, floats)
    return [f"{' and '.join(kinds)} lifted to float32"] if kinds else []


def compare_lifted(original: onnx.ModelProto, lifted: onnx.ModelProto, images: Array) -> list[str]:
    """How far the lifted graph is from the original, both run on `images`; raises `GraphError` where it is another.

    Where ONNX Runtime cannot run the original, that is said in place of a number.
    """
    kind = original.graph.input[0].type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    name, output = original.graph.input[0].name, lifted.graph.output[0].name
    rows: list[Array] = []
    for model, given in ((original, images.astype(dtype)), (lifted, images)):
        try:
            with onnxruntime_errors("the graph", "cannot run it"):
                rows.append(np.asarray(open_session(model).run([output], {name: given})[0], np.float32))
        except BackendError:
            return [
                f"ONNX Runtime cannot run the {np.dtype(dtype).name} graph: the float32 one is not compared with it"
            ]
    difference = float(np.abs(rows[0] - rows[1]).max() / max(float(np.abs(rows[1]).max()), 1e-30))
    widths = [LIFTED_DIFFERENCE[k] for k in _other_kinds(original)]
    allowed = max(widths, default=LIFTED_DIFFERENCE[TensorProto.DOUBLE])
    if not difference <= allowed:
        raise GraphError(
            f"lifted to float32 it differs by {difference:.1e} of its largest output, allowed {allowed:g}",
            "import the float32 graph that it was made from",
        )
    return [f"lifted to float32 it differs by {difference:.1e} of its largest output"]


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    made = {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    return {**made, **{i.name: i for i in graph.initializer}}


def _casts(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, int]]:
    return [(n, attribute(n, "to", 0)) for n in graph.node if n.op_type == "Cast"]


def _other_kinds(model: onnx.ModelProto) -> set[int]:
    """The widths of floats, float32 aside, that the graph takes, holds or computes in."""
    found = {i.data_type for i in _constants(model.graph).values()} | {kind for _, kind in _casts(model.graph)}
    return (found | {i.type.tensor_type.elem_type for i in model.graph.input}).intersection(_OTHERS)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    return types | {name: t.data_type for name, t in _constants(inferred).items()}


def _as_float32(tensor: onnx.TensorProto) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)


def _lift(tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in _OTHERS:
        return
    made = _as_float32(tensor)
    if not np.isfinite(made).all() and np.isfinite(numpy_helper.to_array(tensor).astype(np.float64)).all():
        raise GraphError(f"{tensor.name!r} holds a double that float32 cannot hold", "train or export it in float32")
    tensor.CopyFrom(numpy_helper.from_array(made, tensor.name))


def _drop_casts(graph: onnx.GraphProto, floats: set[str]) -> None:
    ends = {o.name for o in graph.output}
    for node in [n for n in graph.node if n.op_type == "Cast" and attribute(n, "to", 0) == TensorProto.FLOAT]:
        if node.input[0] in floats and node.output[0] not in ends:
            graph.node.remove(node)
            replace_tensor(graph, node.output[0], node.input[0])
