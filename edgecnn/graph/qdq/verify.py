"""What a quantised graph really holds: are the asked pairs there, how much of the work is INT8, which kernels run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from edgecnn.errors import BackendError, GraphError
from edgecnn.graph.onnx_graph import View, multiply_adds, view_of
from edgecnn.graph.qdq.placement import Placement

INTEGER_KERNELS = frozenset(
    {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    | {"QGemm"}
)


def assert_placed(model: onnx.ModelProto, placement: Placement) -> None:
    """Check that `model` holds exactly what `placement` asked for, and nothing weighted is left out.

    Raises `GraphError` naming the node and input where a pair is missing, unasked, reads another tensor, or has
    another scale than its group.
    """
    view = view_of(model)
    nodes = {node.name: node for node in view.nodes}
    asked: dict[tuple[str, int], str] = {(w.node, w.index): w.initializer for w in placement.weights}
    scale_of_group: dict[str, tuple[bytes, str]] = {}
    for pair in placement.activations:
        for edge in pair.edges:
            asked[edge.node, edge.index] = pair.tensor
            if edge.node not in nodes:
                raise GraphError(f"node {edge.node!r} is gone from the quantised graph", "this is a bug in edgecnn")
            scale = _scale(view, nodes[edge.node].input[edge.index])
            first, where = scale_of_group.setdefault(pair.group, (scale, edge.node))
            if scale != first:
                raise GraphError(
                    f"node {edge.node!r}: the scale of input {edge.index} differs from the one at {where!r}, "
                    f"though both belong to the group of {pair.group!r}",
                    "quantise the graph again",
                )
    for (name, index), tensor in asked.items():
        found = dequantised(view, nodes[name].input[index]) if name in nodes else None
        if found != tensor:
            raise GraphError(
                f"node {name!r}: input {index} should read a Q/DQ pair on {tensor!r}, found {found or 'none'}",
                "quantise the graph again",
            )
    for node in view.nodes:
        for index, tensor in enumerate(node.input):
            bias = node.op_type in ("Conv", "Gemm") and index == 2
            if dequantised(view, tensor) and (node.name, index) not in asked and not bias:
                raise GraphError(f"node {node.name!r}: input {index} is quantised unasked", "quantise the graph again")
    for node in view.weighted():
        if not _is_int8(view, node):
            raise GraphError(f"node {node.name!r}: this {node.op_type} was left out", "quantise the graph again")


def dequantised(view: View, tensor: str) -> str | None:
    """The tensor whose 8-bit values `tensor` holds, when it comes from a DequantizeLinear; else None."""
    node = view.producer.get(tensor)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    source = view.producer.get(node.input[0])
    if source is None or source.op_type != "QuantizeLinear":
        return str(node.input[0])
    cast = view.producer.get(source.input[0])  # to FP16, in a graph that is FP16 around INT8
    return str(cast.input[0] if cast is not None and cast.op_type == "Cast" else source.input[0])


def int8_share_pct(model: onnx.ModelProto) -> float:
    """Share of the multiply-adds that stand in a Conv, Gemm or MatMul whose inputs both come from DequantizeLinear."""
    view = view_of(model)
    counts = multiply_adds(model)
    total = sum(counts.values())
    if total == 0:
        raise GraphError("the graph has no Conv, Gemm or MatMul", "is this the right file?")
    return 100 * sum(counts[node.output[0]] for node in view.weighted() if _is_int8(view, node)) / total


def integer_kernels(path: Path) -> tuple[int, int]:
    """(k, n): of the n weighted nodes of `path`, ONNX Runtime's CPU provider computes k in integers.

    Counted in the graph as ONNX Runtime optimised it for this machine. Raises `BackendError` when it does not load.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder, "optimised.onnx")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimised)
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # its exceptions have no common base
            raise BackendError(f"{path}: ONNX Runtime cannot load it: {exc}", "is the file whole?") from exc
        kinds = [node.op_type for node in onnx.load(optimised, load_external_data=False).graph.node]
    weighted = sum(1 for _ in view_of(onnx.load(path)).weighted())
    return sum(kind in INTEGER_KERNELS for kind in kinds), weighted


def require_loads(model: onnx.ModelProto) -> None:
    """Raise `BackendError` unless ONNX Runtime's CPU provider takes `model` as it is, without optimising it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        first = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise BackendError(f"ONNX Runtime does not load it: {first}", "export it again at opset 19") from exc


def _is_int8(view: View, node: onnx.NodeProto) -> bool:
    return all(dequantised(view, tensor) is not None for tensor in node.input[:2])


def _scale(view: View, tensor: str) -> bytes:
    node = view.producer.get(tensor)
    scale = view.initializers.get(node.input[1]) if node is not None and len(node.input) > 1 else None
    return b"" if scale is None else onnx.numpy_helper.to_array(scale).tobytes()
