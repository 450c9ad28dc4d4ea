"""Graphs exported without `model.eval()`: they drop at random, or normalise by the batch they happen to be given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner, numpy_helper

from edgecnn.backends._graph_file import read_structure
from edgecnn.errors import GraphError

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_ATTRIBUTE_SINCE = 14  # opset from which BatchNormalization says training_mode; before, its outputs told


def require_inference(model: onnx.ModelProto) -> None:
    """Raise `GraphError` naming the first node that computes as in training (the ONNX operator specification).

    A BatchNormalization of constants is none: it standardizes weights (NFNet).
    """
    model = inliner.inline_local_functions(model) if model.functions else model
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    graphs = [model.graph, *_inner(model.graph.node)]
    constants = {i.name: i for graph in graphs for i in graph.initializer}
    varying = {i.name for graph in graphs for i in graph.input} - constants.keys()
    for node in (node for graph in graphs for node in graph.node):
        if not varying.isdisjoint(node.input) or any(_inner([node])):
            varying.update(node.output)
        elif node.op_type == "BatchNormalization":
            continue
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        elif node.domain in ("", "ai.onnx") and (why := _trains(node, opset, constants)):
            raise GraphError(
                f"node {node.name or node.output[0]!r}: exported in training mode ({why})",
                "export it again after model.eval(), with torch.onnx.export(..., training=TrainingMode.EVAL)",
            )


def require_inference_file(path: Path) -> None:
    """`require_inference` of the graph in `path`; a file that is no graph is left to whoever runs it."""
    try:
        model = read_structure(path)
    except (OSError, DecodeError):
        return
    require_inference(model)


def _trains(node: onnx.NodeProto, opset: int, constants: dict[str, onnx.TensorProto]) -> str:
    if node.op_type == "BatchNormalization":
        said = any(a.name == "training_mode" and a.i for a in node.attribute)
        if said or (opset < _ATTRIBUTE_SINCE and len([o for o in node.output if o]) > 1):
            return "this BatchNormalization takes its mean and variance from the batch"
    elif node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        mode = constants.get(node.input[2])
        if mode is None or numpy_helper.to_array(mode).any():
            return "this Dropout drops values at random"
    elif node.op_type in _RANDOM:
        return f"{node.op_type} makes random values"
    return ""


def _inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Every graph inside `nodes`."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield graph
                yield from _inner(graph.node)
