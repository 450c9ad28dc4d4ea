"""What a quantized graph really holds: are the asked pairs there, how much of the work is INT8, which kernels run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import onnx

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.errors import GraphError
from edgecnn.graph.onnx_graph import OnnxGraph, count_multiply_adds, flat_graph
from edgecnn.quantization import Placement

INTEGER_KERNELS = frozenset(
    {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    | {"QGemm"}
)


def assert_placed(model: onnx.ModelProto, placement: Placement) -> None:
    """Check that `model` holds exactly what `placement` asked for, and nothing weighted is left out unasked.

    Raises `GraphError` naming the node and input where a pair is missing, unasked, reads another tensor, or has
    another scale than its group.
    """
    graph = flat_graph(model)
    nodes = {node.name: node for node in graph.nodes}
    asked: dict[tuple[str, int], str] = {(w.node, w.index): w.initializer for w in placement.weights}
    scale_of_group: dict[str, tuple[float | None, str]] = {}
    for pair in placement.activations:
        for edge in pair.edges:
            asked[edge.node, edge.index] = pair.tensor
            if edge.node not in nodes:
                raise GraphError(
                    f"node {edge.node!r} is gone from the quantized graph", f"leave it out with --exclude {edge.node}"
                )
            scale = _scale(graph, nodes[edge.node].input[edge.index])
            first, where = scale_of_group.setdefault(pair.scale_group, (scale, edge.node))
            if scale != first:
                raise GraphError(
                    f"node {edge.node!r}: the scale of input {edge.index} differs from the one at {where!r}, "
                    f"though both belong to the scale group of {pair.scale_group!r}",
                    "quantize the graph again",
                )
    for (name, index), tensor in asked.items():
        found = find_dequantized(graph, nodes[name].input[index]) if name in nodes else None
        if found != tensor:
            raise GraphError(
                f"node {name!r}: input {index} should read a Q/DQ pair on {tensor!r}, found {found or 'none'}",
                "quantize the graph again",
            )
    for node in graph.nodes:
        for index, tensor in enumerate(node.input):
            bias = node.op_type in ("Conv", "Gemm") and index == 2
            if find_dequantized(graph, tensor) and (node.name, index) not in asked and not bias:
                raise GraphError(f"node {node.name!r}: input {index} is quantized unasked", "quantize the graph again")
    for node in graph.weighted():
        if not _is_int8(graph, node) and node.name not in placement.excluded:
            raise GraphError(f"node {node.name!r}: this {node.op_type} was left out", "quantize the graph again")


def find_dequantized(graph: OnnxGraph, tensor: str) -> str | None:
    """The tensor whose 8-bit values `tensor` holds, when it comes from a DequantizeLinear; else None."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    source = graph.producer.get(node.input[0])
    if source is None or source.op_type != "QuantizeLinear":
        return str(node.input[0])
    cast = graph.producer.get(source.input[0])  # to FP16, in a graph that is FP16 around INT8
    return str(cast.input[0] if cast is not None and cast.op_type == "Cast" else source.input[0])


def measure_int8_share_pct(
    model: onnx.ModelProto, without: Collection[str] = (), counts: Mapping[str, int] | None = None
) -> float:
    """Share of all multiply-adds that stand in a Conv, Gemm or MatMul whose activation and weight both come from
    DequantizeLinear, but for the nodes in `without`; `counts` are the multiply-adds by node, where they
    are known."""
    graph = flat_graph(model)
    if counts is None:
        made_by = count_multiply_adds(model)
        counts = {node.name: made_by[node.output[0]] for node in graph.products()}
    total = sum(counts.values())
    if total == 0:
        raise GraphError("the graph has no Conv, Gemm or MatMul", "is this the right file?")
    made = [node for node in graph.weighted() if node.name not in without and _is_int8(graph, node)]
    return 100 * sum(counts[node.name] for node in made) / total


def count_integer_kernels(path: Path) -> tuple[int, int]:
    """(k, n): of the n nodes of `path` that multiply and add, ONNX Runtime's CPU provider computes k in integers.

    Counted in the graph as ONNX Runtime optimized it for this machine. Raises `BackendError` when it does not load.
    """
    with scratch_folder() as scratch:
        optimized = scratch / "optimized.onnx"
        hint = "keep the node that it names, or one beside it, out of INT8: --exclude NODE"
        with onnxruntime_errors("the INT8 graph", "cannot load it", hint):
            open_session(path, threads=1, optimized=optimized)
        kinds = [node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node]
    products = sum(1 for _ in flat_graph(onnx.load(path)).products())
    return sum(kind in INTEGER_KERNELS for kind in kinds), products


def require_loads(model: onnx.ModelProto) -> None:
    """Raise `BackendError` unless ONNX Runtime's CPU provider takes `model` as it is, without optimizing it."""
    with onnxruntime_errors("the graph", "does not load it", "export it again at opset 19"):
        open_session(model, optimization="none")


def _is_int8(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    return all(find_dequantized(graph, tensor) is not None for tensor in node.input[:2])


def _scale(graph: OnnxGraph, tensor: str) -> float | None:
    """By value: behind a node that stays FP32, the scale of a group has another type than where it is FP16."""
    node = graph.producer.get(tensor)
    scale = graph.initializers.get(node.input[1]) if node is not None and len(node.input) > 1 else None
    return None if scale is None else float(onnx.numpy_helper.to_array(scale))
