"""Weights that a graph computes of constants alone, as weight standardization does: computed once and written in."""

from __future__ import annotations

import math

import onnx
from onnx import numpy_helper

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.errors import BackendError
from edgecnn.graph.importing.names import graphs_in
from edgecnn.graph.importing.outputs import remove_unneeded
from edgecnn.graph.onnx_graph import QDQ, OnnxGraph, copy_model

_HELD = frozenset({"Constant", "Identity"})
_LARGEST = 1 << 26  # values that are written in at most


def fold_constant_nodes(model: onnx.ModelProto) -> list[str]:
    """Replace, in place, what nodes compute of constants alone by its value. Q/DQ pairs stay, and so does what ONNX
    Runtime does not run."""
    graph = OnnxGraph(model)
    constant = {"", *graph.initializers}
    computing: list[onnx.NodeProto] = []
    for node in graph.nodes:
        fixed = node.op_type not in QDQ and constant.issuperset(node.input)
        if fixed and not any(a.HasField("g") or a.graphs for a in node.attribute):
            constant.update(node.output)
            computing += [] if node.op_type in _HELD else [node]
    if not computing:
        return []
    made = {name for node in computing for name in node.output if name}
    rest = [n for n in graph.nodes if not constant.issuperset(n.output)]
    read = {name for n in rest for name in n.input} | set(graph.outputs)
    read |= {name for n in rest for a in n.attribute for g in _inner(a) for m in g.node for name in m.input}
    wanted = [name for name in graph.producer if name in made & read]
    part = copy_model(model)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    remove_unneeded(part.graph)
    del part.graph.input[:]
    try:
        with onnxruntime_errors("the graph"):
            values = open_session(part).run(wanted, {}) if wanted else []
    except BackendError:
        return []
    if sum(math.prod(v.shape) for v in values) > _LARGEST:
        return []
    kept = [n for n in graph.nodes if made.isdisjoint(n.output)]
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in zip(values, wanted, strict=True))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    remove_unneeded(model.graph)
    return [f"{len(computing)} nodes that compute weights of constants replaced by their values"]


def hold_constants(graph: onnx.GraphProto) -> None:
    """Make initializers of the Constant nodes that hold a tensor, in place."""
    for node in [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _inner(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    held = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return [inner for graph in held for inner in graphs_in(graph)]
