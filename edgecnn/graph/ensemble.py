"""Several classifiers as one graph that averages their probabilities (Hansen and Salamon, "Neural network ensembles",
1990).

Members stand side by side, merged by `onnx.compose`: their nodes under `/member1`, their tensors under `member1.`.
Behind them stands the average, always in float32: Softmax of each, the weighted sum, and its logarithm, which is the
`logits` of the whole, so that a Softmax of these gives the averaged probabilities, as of any classifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.compose
from onnx import helper, numpy_helper

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.contract import INPUT, IR_VERSION, MAX_DIFFERENCE, OUTPUT
from edgecnn.errors import GraphError
from edgecnn.graph.importing.names import name_nodes, replace_tensor
from edgecnn.graph.load import onnx_errors
from edgecnn.session import Array, class_probabilities

if TYPE_CHECKING:
    import onnxruntime

LARGEST_DIFFERENCE = 1e-5  # of a probability, between the graph and its members averaged in numpy
BATCHES = (1, 2)  # at which that is proven
AVERAGE = "average"  # the first part of the names of the tensors that the average computes


def merge_members(members: Sequence[onnx.ModelProto], weights: Sequence[float]) -> onnx.ModelProto:
    """One graph `input` [N, C, H, W] -> `logits` [N, classes], the logarithm of the probabilities averaged by
    `weights`; members are float32 graphs of one input size and one number of classes. Raises `GraphError`."""
    with onnx_errors("the ensemble", "its members cannot be merged", "export them again with this version"):
        whole = _prefixed(members[0], 1)
        for number, member in enumerate(members[1:], 2):
            whole = onnx.compose.merge_models(whole, _prefixed(member, number), io_map=[])
    graph = whole.graph
    first_input, first_output = (
        onnx.ValueInfoProto.FromString(v[0].SerializeToString()) for v in (graph.input, graph.output)
    )
    for value in graph.input:
        replace_tensor(graph, value.name, INPUT)
    outputs = [value.name for value in graph.output]
    del graph.input[:], graph.output[:], graph.value_info[:]
    first_input.name, first_output.name = INPUT, OUTPUT
    graph.input.append(first_input)
    graph.output.append(first_output)
    _add_average(graph, outputs, weights)
    name_nodes(graph)
    graph.name, whole.ir_version = "ensemble", IR_VERSION
    return whole


def average_nodes(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes of an ensemble that average, and those of an ensemble that is a member; none in another graph."""
    found, last = list(nodes), f"{AVERAGE}.weights"
    read = {name for node in found for name in node.input if name == last or name.endswith(f".{last}")}
    heads = tuple(f"/{name.removesuffix('weights').replace('.', '/')}" for name in read)
    return [node for node in found if node.name.startswith(heads)]


def prove_average(model: onnx.ModelProto, members: Mapping[str, onnx.ModelProto], weights: Sequence[float]) -> float:
    """The largest difference of a probability between the graph and the average of what each member gives in ONNX
    Runtime, on seeded noise; raises `GraphError` beyond `LARGEST_DIFFERENCE`, and where two members, by their names,
    compute the same."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(0).standard_normal((shape[0] or max(BATCHES), *shape[1:]), np.float32)
    with onnxruntime_errors("the ensemble", error=GraphError):
        session = open_session(model)
        logits = {name: _run(open_session(member), images) for name, member in members.items()}
        found = {batch: _run(session, images[:batch]) for batch in ([shape[0]] if shape[0] else BATCHES)}
    _require_different(logits)
    rows = np.stack([class_probabilities(one, 0.0) for one in logits.values()])
    average = np.tensordot(np.asarray(weights), rows, 1)
    worst = 0.0
    for batch, one in found.items():
        difference = float(np.abs(class_probabilities(one, 0.0) - average[:batch]).max())
        if not difference <= LARGEST_DIFFERENCE:
            raise GraphError(
                f"the ensemble differs from its averaged members by {difference:.1e} at batch {batch}, allowed "
                f"{LARGEST_DIFFERENCE:.0e}",
                "report these networks",
            )
        worst = max(worst, difference)
    return worst


def _prefixed(member: onnx.ModelProto, number: int) -> onnx.ModelProto:
    made = onnx.compose.add_prefix(member, f"member{number}.", rename_nodes=False)
    for node in made.graph.node:
        node.name = f"/member{number}/{node.name.lstrip('/')}"
    del made.metadata_props[:]
    made.ir_version = IR_VERSION
    return made


def _add_average(graph: onnx.GraphProto, outputs: Sequence[str], weights: Sequence[float]) -> None:
    constants = {
        "axis": np.array([1], np.int64),
        "weights": np.array(weights, np.float32).reshape(1, -1, 1),
        "least": np.finfo(np.float32).tiny,  # what keeps the logarithm finite
    }
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{AVERAGE}.{name}"))

    def add(operator: str, inputs: Sequence[str], made: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{AVERAGE}.{made}"
        graph.node.append(helper.make_node(operator, inputs, [output], f"/{AVERAGE}/{made}", **attributes))
        return output

    axis = f"{AVERAGE}.axis"
    rows = [add("Unsqueeze", [name, axis], f"row{k}") for k, name in enumerate(outputs, 1)]
    logits = add("Concat", rows, "logits", axis=1)
    weighted = add("Mul", [add("Softmax", [logits], "members", axis=2), f"{AVERAGE}.weights"], "weighted")
    mean = add("ReduceSum", [weighted, axis], "mean", keepdims=0)
    add("Log", [add("Max", [mean, f"{AVERAGE}.least"], "positive")], "log", OUTPUT)


def _run(session: onnxruntime.InferenceSession, images: Array) -> Array:
    found: Array = session.run([OUTPUT], {INPUT: images})[0]
    return found


def _require_different(logits: Mapping[str, Array]) -> None:
    seen: dict[str, Array] = {}
    for name, one in logits.items():
        for other, known in seen.items():
            if np.abs(one - known).max() <= MAX_DIFFERENCE * np.abs(known).max():
                raise GraphError(
                    f"{name}: computes what {other} computes", "an ensemble is of networks that differ: name it once"
                )
        seen[name] = one
