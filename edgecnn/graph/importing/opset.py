"""A foreign graph's operators in one dialect: functions inlined, opset 19, no initializer that is an input too."""

from __future__ import annotations

import onnx
from onnx import helper, inliner, version_converter

from edgecnn.contract import IR_VERSION, OPSET
from edgecnn.graph.load import onnx_errors
from edgecnn.graph.onnx_graph import opset_of


def make_readable(model: onnx.ModelProto) -> list[str]:
    """Inline functions and take initializers from the inputs: what must happen before the graph can be looked at."""
    changes = []
    if model.functions:
        names = ", ".join(sorted({f.name for f in model.functions})[:4])
        model.CopyFrom(inliner.inline_local_functions(model))
        changes.append(f"local functions inlined: {names}")
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) < len(model.graph.input):
        changes.append(f"{len(model.graph.input) - len(inputs)} initializers no longer declared as inputs")
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    return changes


def convert_opset(model: onnx.ModelProto) -> list[str]:
    """Bring the operators to opset 19 and the file to IR version 9; raises `GraphError`."""
    old = opset_of(model)
    changes = []
    if old != OPSET:
        with onnx_errors(f"opset {old}", f"cannot be converted to {OPSET}", f"export it again at opset {OPSET}"):
            model.CopyFrom(version_converter.convert_version(model, OPSET))
        changes.append(f"opset {old} -> {OPSET}")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    if model.ir_version != IR_VERSION:
        changes.append(f"IR version {model.ir_version} -> {IR_VERSION}")
        model.ir_version = IR_VERSION
    return changes


def make_bounds_scalar(graph: onnx.GraphProto) -> list[str]:
    """Clip takes scalars; some exporters write tensors of shape [1], which only some runtimes accept."""
    bounds = {name for n in graph.node if n.op_type == "Clip" for name in n.input[1:]}
    changed = [i for i in graph.initializer if i.name in bounds and list(i.dims) == [1]]
    for initializer in changed:
        del initializer.dims[:]
    return [f"{len(changed)} Clip bounds of shape [1] made scalars"] if changed else []
