"""What some exporters leave to the run although the shapes settle it: the branch of an If."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecnn.graph.importing.names import free_name, replace_tensor
from edgecnn.graph.importing.outputs import remove_unneeded
from edgecnn.graph.onnx_graph import attribute, node_label
from edgecnn.session import Array


def take_branches(
    model: onnx.ModelProto, original: onnx.ModelProto, run: Callable[[onnx.ModelProto], Array]
) -> list[str]:
    """Put in place of each If the branch that the images take in `original` by `run`; one that takes both stays."""
    said = []
    for node in [n for n in model.graph.node if n.op_type == "If"]:
        ways = {bool(way) for way in run(_condition(original, node.input[0])).reshape(-1)}
        if len(ways) > 1:
            continue
        branch = "then_branch" if ways.pop() else "else_branch"
        _inline(model.graph, node, attribute(node, branch, onnx.GraphProto()))
        said.append(f"If {node_label(node)} replaced by its {branch.replace('_', ' ')}")
    if said:
        remove_unneeded(model.graph)
    return said


def _condition(original: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A graph that gives the condition `name` as [1]."""
    made = onnx.ModelProto()
    made.CopyFrom(original)
    shape, output = free_name(made.graph, "condition_shape"), free_name(made.graph, "condition")
    made.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), shape))
    made.graph.node.append(helper.make_node("Reshape", [name, shape], [output], output))
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info(output, TensorProto.BOOL, [1]))
    return made


def _inline(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> None:
    inner = onnx.GraphProto()
    inner.CopyFrom(branch)
    made_inside = {output for other in inner.node for output in other.output}
    ends = []
    for given, taken in zip(inner.output, node.output, strict=True):
        if given.name in made_inside:
            replace_tensor(inner, given.name, taken)
        else:
            ends.append(helper.make_node("Identity", [given.name], [taken]))
    kept = [made for other in graph.node for made in ([*inner.node, *ends] if other.output == node.output else [other])]
    graph.initializer.extend(inner.initializer)
    copies = [onnx.NodeProto.FromString(made.SerializeToString()) for made in kept]
    del graph.node[:]
    graph.node.extend(copies)
