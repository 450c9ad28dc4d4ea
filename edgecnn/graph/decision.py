"""How the output of a graph is read: logits of several classes, or one value that decides between two.

One logit z means class 1 where z > 0; where the graph ends in a sigmoid it means class 1 where sigmoid(z) > 0.5.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact import Sidecar
from edgecnn.errors import GraphError, MissingPackageError
from edgecnn.session import TensorSpec

if TYPE_CHECKING:
    import onnx

LOGIT, PROBABILITY = 0.0, 0.5  # above which one output means class 1
_KEEPS_VALUES = {
    "Cast", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip


def decision_threshold(path: Path, sidecar: Sidecar, output: TensorSpec) -> float:
    """What the only output of the engine or graph `path` has to exceed for class 1; 0 for more than one output.

    Graphs that edgecnn exported or imported (their sidecars count the outputs) and plans give logits. Raises
    `GraphError` for several outputs behind a sigmoid, `MissingPackageError` where one output cannot be looked into.
    """
    if path.suffix != ".onnx" or sidecar.facts.get("classes", 1) != 1:
        return LOGIT
    try:
        import onnx
    except ModuleNotFoundError as exc:
        if output.shape[-1] != 1 or "classes" in sidecar.facts:
            return LOGIT
        raise MissingPackageError("onnx", "telling a logit from a probability", "cpu") from exc
    sigmoid = final_sigmoid(onnx.load(str(path), load_external_data=False).graph)
    if sigmoid is None:
        return LOGIT
    if output.shape[-1] != 1:
        raise multi_label(str(path))
    return PROBABILITY


def require_logits(graph: Path, sidecar: Sidecar) -> None:
    """Raise `GraphError` for a graph that ends in a sigmoid, where it can be seen: a plan of it would not say so."""
    if "classes" in sidecar.facts or importlib.util.find_spec("onnx") is None:
        return
    import onnx

    if final_sigmoid(onnx.load(str(graph), load_external_data=False).graph) is not None:
        raise GraphError(
            f"{graph}: ends in a sigmoid, and a plan of it would be read as logits",
            "`edgecnn import` takes the Sigmoid off the graph: build from what it writes",
        )


def final_sigmoid(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """The Sigmoid that makes the values of the only output, if one does; later nodes change shape or type alone."""
    maker = {name: node for node in graph.node for name in node.output}
    node = maker.get(graph.output[0].name)
    while node is not None and node.op_type in _KEEPS_VALUES:
        node = maker.get(node.input[0])
    return node if node is not None and node.op_type == "Sigmoid" else None


def multi_label(graph: str) -> GraphError:
    """The refusal of one sigmoid for each class."""
    return GraphError(
        f"{graph}: ends in a sigmoid for each of several classes: multi-label is not supported",
        "export a classifier of one class for each image, with its logits as the output",
    )
