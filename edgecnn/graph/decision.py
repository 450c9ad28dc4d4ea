"""How the output of a graph is read: logits of several classes, or one value that decides between two.

One logit z means class 1 where z > 0; where the graph ends in a sigmoid it means class 1 where sigmoid(z) > 0.5.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.errors import GraphError
from edgecnn.machine.packages import missing_package
from edgecnn.session import TensorSpec

if TYPE_CHECKING:
    import onnx

    from edgecnn.graph.onnx_graph import OnnxGraph

LOGIT, PROBABILITY = 0.0, 0.5  # above which one output means class 1
_KEEPS_VALUES = {
    "Cast", "DequantizeLinear", "Dropout", "Flatten", "Gather", "Identity", "QuantizeLinear", "Reshape", "Slice",
    "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_BY_CONSTANTS = {"Add", "Clip", "Div", "Log", "Max", "Min", "Mul", "Neg", "Reciprocal", "Sub", "Sum"}
_MOVES_THE_THRESHOLD = {"Clip", "Log", "Max", "Min", "Reciprocal"}
_NEVER_BELOW_ZERO = {"Exp", "HardSigmoid", "Softmax", "Softplus"}


def decision_threshold(path: Path, sidecar: Sidecar, output: TensorSpec) -> float:
    """What the only output of the engine or graph `path` has to exceed for class 1; 0 for more than one output.

    Graphs that edgecnn exported or imported (their sidecars count the outputs) and plans give logits. Raises
    `GraphError` as `final_sigmoid` does, `MissingPackageError` where one output cannot be looked into.
    """
    contract = sidecar.contract
    if contract.output != "logits":
        return PROBABILITY if contract.classes == 1 else LOGIT
    if path.suffix != ".onnx" or sidecar.facts.get("classes", 1) != 1:
        return LOGIT
    try:
        from edgecnn.graph.load import load_structure
    except ModuleNotFoundError as exc:
        if output.shape[-1] != 1 or "classes" in sidecar.facts:
            return LOGIT
        raise missing_package("onnx", "telling a logit from a probability", "cpu") from exc
    model = load_structure(path)
    return LOGIT if final_sigmoid(model, str(path), output.shape[-1] != 1) is None else PROBABILITY


def require_logits(graph: Path, sidecar: Sidecar) -> None:
    """Raise `GraphError` for a graph that ends in a sigmoid or in what `final_sigmoid` refuses, where it can be seen: a
    plan of it would not say so."""
    if "classes" in sidecar.facts or importlib.util.find_spec("onnx") is None:
        return
    from edgecnn.graph.load import load_structure

    model = load_structure(graph)
    dims = model.graph.output[0].type.tensor_type.shape.dim
    if final_sigmoid(model, str(graph), len(dims) > 1 and dims[-1].dim_value != 1) is not None:
        raise GraphError(
            f"{graph}: ends in a sigmoid, and a plan of it would be read as logits",
            "`edgecnn import` takes the Sigmoid off the graph: build from what it writes",
        )


def final_sigmoid(model: onnx.ModelProto, where: str, several: bool) -> onnx.NodeProto | None:
    """The Sigmoid that makes the only value, if one does; nodes behind it change shape or type alone.

    Raises `GraphError`, which begins with `where`, for a sigmoid for each of `several` values, and for one value that
    is a probability in another form. Judged by the last operators, from the output to what is no arithmetic with
    constants.
    """
    from edgecnn.graph.onnx_graph import OnnxGraph

    graph = OnnxGraph(model)
    ends = _ends_of(graph, graph.output, frozenset())
    if several:
        complementary = len(ends) == 2 and ends[0].node is ends[1].node and ends[0].passed != ends[1].passed  # 1 - p, p
        if not complementary and all(end.is_sigmoid for end in ends):
            raise GraphError(
                f"{where}: ends in a sigmoid for each of several classes: multi-label is not supported",
                "export a classifier of one class for each image, with its logits as the output",
            )
        return None
    end = ends[0]
    if end.node is not None and end.node.op_type == "Sigmoid" and not end.passed:
        return end.node
    if end.is_sigmoid or end.passed & _MOVES_THE_THRESHOLD or (end.node and end.node.op_type in _NEVER_BELOW_ZERO):
        last = [*end.passed, end.node.op_type if end.node else "the input"]
        raise GraphError(
            f"{where}: ends in {', '.join(sorted(last))}: one output that is a probability in another form",
            "export the logit, or the plain sigmoid, as the output",
        )
    return None


def ends_in_probabilities(model: onnx.ModelProto) -> bool:
    """Whether a Softmax or a Sigmoid, also of a quantized graph, makes the only output."""
    from edgecnn.graph.onnx_graph import OnnxGraph

    graph = OnnxGraph(model)
    if len(graph.outputs) != 1:
        return False
    node = graph.producer.get(graph.output)
    while node is not None and node.op_type in _KEEPS_VALUES:
        node = graph.producer.get(node.input[0])
    return node is not None and node.op_type.removeprefix("QLinear") in ("Softmax", "Sigmoid")


class _End(NamedTuple):
    """The node from which arithmetic with constants leads to the output, and the operators of that arithmetic."""

    node: onnx.NodeProto | None
    passed: frozenset[str]

    @property
    def is_sigmoid(self) -> bool:
        """Also 1 / (1 + exp(-x)), and (1 + tanh(x)) / 2."""
        kind = self.node.op_type if self.node else ""
        return (
            kind.removeprefix("QLinear") in ("Sigmoid", "HardSigmoid")
            or (kind == "Exp" and {"Add", "Reciprocal"} <= self.passed)
            or (kind == "Tanh" and not self.passed.isdisjoint(("Add", "Sub", "Sum")))
        )


def _ends_of(graph: OnnxGraph, tensor: str, passed: frozenset[str]) -> list[_End]:
    """Where `tensor` comes from: one end for each input of a Concat."""
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in _KEEPS_VALUES:
        node = graph.producer.get(node.input[0])
    if node is not None and node.op_type == "Concat":
        return [end for name in node.input for end in _ends_of(graph, name, passed)]
    if node is None or node.op_type not in _BY_CONSTANTS:
        return [_End(node, passed)]
    varying = [k for k, name in enumerate(node.input) if name and not _holds_constant(graph, name)]
    if len(varying) != 1:
        return [_End(node, passed)]
    kind = "Reciprocal" if node.op_type == "Div" and varying == [1] else node.op_type
    return _ends_of(graph, node.input[varying[0]], passed | {kind})


def _holds_constant(graph: OnnxGraph, name: str) -> bool:
    while (node := graph.producer.get(name)) is not None and node.op_type in _KEEPS_VALUES:
        name = node.input[0]
    return graph.is_constant(name)
