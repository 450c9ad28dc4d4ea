"""The end of a foreign classifier: [N, classes] logits, without a Softmax or Sigmoid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from edgecnn.contract import MAX_DIFFERENCE
from edgecnn.errors import GraphError
from edgecnn.graph.decision import LOGIT, final_sigmoid
from edgecnn.graph.importing.names import free_name, replace_tensor
from edgecnn.graph.onnx_graph import OnnxGraph, node_label
from edgecnn.session import Array, class_probabilities

_KEEPS_VALUES = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True)
class End:
    """The tensor of logits inside the original, and what the original makes of them."""

    logits: str
    gives: Literal["probabilities", "log-probabilities"]
    changes: tuple[str, ...]

    def require_equal(self, logits: Array, given: Array) -> None:
        """Raise `GraphError` unless what the original gave is what its logits mean, and they tell images apart.

        Saturated probabilities do not: they are looked at here alone, all else is compared in the logits.
        """
        flat, rows = logits.reshape(len(logits), -1), given.reshape(len(given), -1)
        if self.gives == "log-probabilities":
            high = flat.max(1, keepdims=True)
            made = flat - high - np.log(np.exp(flat - high).sum(1, keepdims=True))
        else:
            made = class_probabilities(flat, LOGIT)[:, -flat.shape[1] :]
        allowed = MAX_DIFFERENCE * max(1.0, float(np.abs(rows).max()))
        if made.shape != rows.shape or not float(np.abs(made - rows).max()) <= allowed:
            raise GraphError(
                f"the end of the graph makes no {self.gives} of the classes from {self.logits!r}",
                f"take that tensor as the output: --output-name {self.logits}",
            )


def remove_softmax(model: onnx.ModelProto) -> End | None:
    """Take a Softmax or LogSoftmax off the end; what lies behind it changes shape alone. Raises `GraphError` for one
    that is turned around, as the negative of a LogSoftmax is."""
    graph, name = model.graph, model.graph.output[0].name
    index = OnnxGraph(model)
    last = _last(index, name)
    negative = last is not None and last.op_type == "Neg"
    first = _last(index, last.input[0]) if last is not None and last.op_type in ("Log", "Neg") else last
    if first is not None and negative and first.op_type == "Log":
        first = _last(index, first.input[0])
    if first is None or first.op_type not in ("Softmax", "LogSoftmax"):
        return None
    if negative:
        raise GraphError(
            f"the graph ends in the negative of a {first.op_type} ({node_label(first)}): its smallest value wins",
            f"take the logits as the output: --output-name {first.input[0]}",
        )
    assert last is not None
    for node in {id(n): n for n in (first, last)}.values():
        graph.node.remove(node)
    replace_tensor(graph, last.output[0], first.input[0])
    if last.output[0] == name:
        graph.output[0].name = first.input[0]
    log = last.op_type == "Log" or first.op_type == "LogSoftmax"
    what = first.op_type if first is last else "Softmax and the Log"
    said = f"the {what} at the end ({node_label(first)}) removed: the output is logits now"
    return End(first.input[0], "log-probabilities" if log else "probabilities", (said,))


def remove_sigmoid(model: onnx.ModelProto, several: bool) -> End | None:
    """Take off the Sigmoid of one output; what lies behind it changes shape alone. Raises `GraphError` as
    `final_sigmoid` does."""
    graph = model.graph
    sigmoid = final_sigmoid(model, "the graph", several)
    if sigmoid is None:
        return None
    name = sigmoid.output[0]
    graph.node.remove(sigmoid)
    if name == graph.output[0].name:
        graph.output[0].name = sigmoid.input[0]
    replace_tensor(graph, name, sigmoid.input[0])
    said = f"the Sigmoid at the end ({node_label(sigmoid)}) removed: the output is a logit now, decided at 0"
    return End(sigmoid.input[0], "probabilities", (said,))


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


def _last(index: OnnxGraph, name: str) -> onnx.NodeProto | None:
    """The node behind which shape and type alone change up to tensor `name`."""
    node = index.producer.get(name)
    while node is not None and node.op_type in _KEEPS_VALUES:
        node = index.producer.get(node.input[0])
    return node
