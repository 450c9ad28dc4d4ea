"""The end of a foreign classifier: [N, classes] logits, without a Softmax or Sigmoid."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from edgecnn.errors import GraphError
from edgecnn.graph.decision import final_sigmoid
from edgecnn.graph.importing.names import free_name, replace_tensor
from edgecnn.graph.onnx_graph import OnnxGraph, node_label
from edgecnn.session import Array


def remove_softmax(model: onnx.ModelProto) -> list[str]:
    """Take a Softmax off the end."""
    graph, name = model.graph, model.graph.output[0].name
    last = OnnxGraph(model).producer.get(name)
    if last is None or last.op_type != "Softmax":
        return []
    graph.node.remove(last)
    replace_tensor(graph, name, last.input[0])
    graph.output[0].name = last.input[0]
    return [f"the Softmax at the end ({node_label(last)}) removed: the output is logits now"]


def remove_sigmoid(model: onnx.ModelProto, expected: Array) -> list[str]:
    """Take off the Sigmoid of one output; what lies behind it changes shape alone. Raises `GraphError` as
    `final_sigmoid` does."""
    graph = model.graph
    sigmoid = final_sigmoid(model, "the graph", expected[0].size != 1)
    if sigmoid is None:
        return []
    name = sigmoid.output[0]
    graph.node.remove(sigmoid)
    if name == graph.output[0].name:
        graph.output[0].name = sigmoid.input[0]
    replace_tensor(graph, name, sigmoid.input[0])
    return [f"the Sigmoid at the end ({node_label(sigmoid)}) removed: the output is a logit now, decided at 0"]


def flatten_output(graph: onnx.GraphProto, expected: Array) -> list[str]:
    """Make [N, classes] of [N, classes, 1, 1]; raises `GraphError` for what is no classifier's output."""
    if expected.ndim == 2:
        return []
    if np.prod(expected.shape[2:]) != 1 or expected.ndim < 2:
        raise GraphError(
            f"output {graph.output[0].name!r} is {['N', *expected.shape[1:]]}, not [N, classes]",
            "a classifier is needed: export it with its head, and one logit as [N, 1]",
        )
    name = free_name(graph, "flatten")
    graph.node.append(helper.make_node("Flatten", [graph.output[0].name], [name], name=name, axis=1))
    graph.output[0].name = name
    return [f"a Flatten added at the end: the output was {['N', *expected.shape[1:]]}"]
