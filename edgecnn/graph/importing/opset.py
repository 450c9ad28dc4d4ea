"""A foreign graph's operators in one dialect: functions inlined, opset 19, no initializer that is an input too."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, version_converter

from edgecnn.contract import IR_VERSION, OPSET
from edgecnn.errors import GraphError
from edgecnn.graph.importing.downgrade import downgrade_opset
from edgecnn.graph.importing.functions import write_out_functions
from edgecnn.graph.importing.names import free_name, graphs_in
from edgecnn.graph.load import onnx_errors
from edgecnn.graph.onnx_graph import infer_shapes, node_label, opset_of

_MORE_OUTPUTS = frozenset({"Dropout", "LayerNormalization", "MaxPool"})
_OWN_INITIALIZERS_SINCE = 4  # IR version: before it every initializer was an input too


def make_readable(model: onnx.ModelProto) -> list[str]:
    """Inline functions, take initializers and what nothing reads from the inputs, and axes of -1 or 0 as not fixed:
    what must happen before the graph can be looked at. Raises `GraphError` for an opset that is not known
    here, and for a cycle."""
    known, opset = onnx.defs.onnx_opset_version(), opset_of(model)
    if opset > known:
        raise GraphError(
            f"opset {opset}, and onnx {onnx.__version__} knows up to {known}",
            f"export it at opset {OPSET}, or update onnx",
        )
    changes = sort_nodes(model.graph)
    if model.functions:
        names = ", ".join(sorted({f.name for f in model.functions})[:4])
        model.CopyFrom(inliner.inline_local_functions(model))
        changes.append(f"local functions inlined: {names}")
    name_unread_outputs(model.graph)
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) < len(model.graph.input):
        changes.append(f"{len(model.graph.input) - len(inputs)} initializers no longer declared as inputs")
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    return [*changes, *drop_unread_inputs(model), *free_unfixed_axes(model.graph)]


def sort_nodes(graph: onnx.GraphProto) -> list[str]:
    """Each node behind those that it reads, as the standard asks; raises `GraphError` for a cycle."""
    made = {name: k for k, node in enumerate(graph.node) for name in node.output if name}
    inner = {k: [g for a in n.attribute for g in (a.g, *a.graphs)] for k, n in enumerate(graph.node) if n.attribute}
    reads = [
        {made[name] for n in (node, *(m for g in inner.get(k, ()) for h in graphs_in(g) for m in h.node))
         for name in n.input if name in made}
        for k, node in enumerate(graph.node)
    ]  # fmt: skip
    if all(source < k for k, sources in enumerate(reads) for source in sources):
        return []
    try:
        order = [*TopologicalSorter(dict(enumerate(reads))).static_order()]
    except CycleError as exc:
        names = " -> ".join(node_label(graph.node[k]) for k in exc.args[1][:5])
        raise GraphError(f"nodes read each other, or make one tensor: {names}", "export the network again") from exc
    copies = [onnx.NodeProto.FromString(graph.node[k].SerializeToString()) for k in order]
    del graph.node[:]
    graph.node.extend(copies)
    return ["nodes put in the order in which they read each other"]


def drop_unread_inputs(model: onnx.ModelProto) -> list[str]:
    """Remove the inputs that no node reads, but never all."""
    graph = model.graph
    constants = {i.name for i in graph.initializer}
    read = {name for g in graphs_in(graph) for node in g.node for name in node.input}
    unread = [i for i in graph.input if i.name not in read | constants]
    if len(unread) == len([i for i in graph.input if i.name not in constants]):
        return []
    for value in unread:
        graph.input.remove(value)
    return [f"input {value.name!r} dropped: nothing reads it" for value in unread]


def name_unread_outputs(graph: onnx.GraphProto) -> None:
    """Drop optional outputs that nothing reads, and name those of a Split that have no name: ONNX Runtime's process
    ends where it runs such a Split."""
    read = {name for g in graphs_in(graph) for n in g.node for name in n.input} | {o.name for o in graph.output}
    for node in graph.node:
        if node.op_type in _MORE_OUTPUTS:
            while len(node.output) > 1 and node.output[-1] not in read:
                node.output.pop()
        for k, name in enumerate(node.output):
            if node.op_type == "Split" and not name:
                node.output[k] = free_name(graph, f"{node.name or node.input[0]}_unread")


def convert_opset(model: onnx.ModelProto) -> list[str]:
    """Bring the operators to opset 19 and the file to IR version 9; raises `GraphError`."""
    old, ir_version = opset_of(model), model.ir_version
    changes = list[str]()
    changes += downgrade_opset(model) if old > OPSET else write_out_functions(model)
    if old < OPSET:
        model.ir_version = max(ir_version, _OWN_INITIALIZERS_SINCE)  # the converter looks for them among the inputs
        with onnx_errors(f"opset {old}", f"cannot be converted to {OPSET}", f"export it again at opset {OPSET}"):
            model.CopyFrom(version_converter.convert_version(model, OPSET))
    if old != OPSET:
        changes.append(f"opset {old} -> {OPSET}")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    if ir_version != IR_VERSION:
        changes.append(f"IR version {ir_version} -> {IR_VERSION}")
    model.ir_version = IR_VERSION
    return changes


def make_bounds_scalar(graph: onnx.GraphProto) -> list[str]:
    """Clip takes scalars; some exporters write tensors of shape [1], which only some runtimes accept."""
    bounds = {name for n in graph.node if n.op_type == "Clip" for name in n.input[1:]}
    changed = [i for i in graph.initializer if i.name in bounds and list(i.dims) == [1]]
    for initializer in changed:
        del initializer.dims[:]
    return [f"{len(changed)} Clip bounds of shape [1] made scalars"] if changed else []


def write_squeeze_axes(model: onnx.ModelProto) -> list[str]:
    """A Squeeze without axes gets those of size 1, but for the batch, which it would take too where one image comes."""
    graph = model.graph
    if graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1:
        return []
    written = 0
    for node in graph.node:
        if node.op_type != "Squeeze" or len(node.input) != 1:
            continue
        sizes = infer_shapes(model).get(node.input[0], ())[1:]
        if not sizes or None in sizes:
            continue
        axes = free_name(graph, f"{node.output[0]}_axes")
        values = np.array([k for k, size in enumerate(sizes, 1) if size == 1], np.int64)
        graph.initializer.append(numpy_helper.from_array(values, axes))
        node.input.append(axes)
        written += 1
    return [f"{written} Squeezes without axes got theirs, so that they leave the batch"] if written else []


def free_unfixed_axes(graph: onnx.GraphProto) -> list[str]:
    """An axis of -1 or 0 is one that is not fixed: Paddle and MXNet write the batch so."""
    freed = 0
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.Clear()
                freed += value.name in {i.name for i in graph.input}
    return [f"{freed} axes of the input written as -1 or 0 taken as dynamic"] if freed else []
