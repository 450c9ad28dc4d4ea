"""Graphs that came with Q/DQ pairs, of quantization-aware training elsewhere or of another quantizer: taken as they
are, told apart by the scheme that they are for, and their float parts named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.importing.constants import hold_constants
from edgecnn.graph.load import as_it_is
from edgecnn.graph.onnx_graph import OnnxGraph, node_label, type_name
from edgecnn.graph.qdq.verify import measure_int8_share_pct
from edgecnn.results.engine import Scheme

_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
_EIGHT_BITS = (TensorProto.INT8, TensorProto.UINT8)
_CODES = {"QuantizeLinear": _EIGHT_BITS, "DequantizeLinear": (*_EIGHT_BITS, TensorProto.INT32)}
WHOLE = 99.9  # per cent of the multiply-adds: all of them, but for rounding


@dataclass(frozen=True)
class Quantized:
    """The scheme that the pairs of a graph fit, the share of multiply-adds between them, and what is to be said."""

    scheme: Scheme
    int8_share_pct: float
    warnings: tuple[str, ...]

    @property
    def precision(self) -> str:
        """What a sidecar says of it."""
        return "int8" if self.int8_share_pct >= WHOLE else "mixed"


def take_pairs(model: onnx.ModelProto, source: Path | str) -> bool:
    """Whether Q/DQ nodes stand in the graph; their scales and zero points become initializers, in place.

    Raises `GraphError` for one that is quantized in other operators, or to other types than int8 and uint8 (biases:
    int32).
    """
    if any(node.op_type in PAIR for node in model.graph.node):
        hold_constants(model.graph)
    graph = OnnxGraph(model)
    for node in graph.nodes:
        if node.op_type in _OPERATORS or (node.domain == "com.microsoft" and node.op_type.startswith("QLinear")):
            raise GraphError(
                f"node {node_label(node)}: quantized in operators of its own ({node.op_type}), not in Q/DQ pairs",
                f"quantize it there with quant_format=QuantFormat.QDQ, or import the float32 graph; {as_it_is(source)}",
            )
        if node.op_type in PAIR and (kind := _code_type(graph, node)) not in _CODES[node.op_type]:
            raise GraphError(
                f"node {node_label(node)}: {type_name(kind)} codes, not int8 or uint8",
                "quantize it to 8 bits there, or import the float32 graph",
            )
    return any(node.op_type in PAIR for node in graph.nodes)


def describe_pairs(model: onnx.ModelProto, source: Path | str) -> Quantized:
    """What the pairs of `model` are for; raises `GraphError` where no multiply-add stands between them."""
    graph = OnnxGraph(model)
    pairs = [node for node in graph.nodes if node.op_type in PAIR]
    symmetric = all(_code_type(graph, n) == TensorProto.INT8 and _is_centered(graph, n) for n in pairs)
    share = round(measure_int8_share_pct(model), 2)
    if share == 0:
        raise GraphError(
            "its Q/DQ pairs stand around no Conv, Gemm or MatMul",
            f"import the float32 graph, and quantize it here; {as_it_is(source)}",
        )
    warnings = ["the graph came quantized: its pairs are kept, there is nothing to calibrate, and `validate` judges it"]
    if symmetric and all(i.data_type != TensorProto.FLOAT16 for i in graph.initializers.values()):
        warnings.append(
            "its float parts are FP32, which costs time on TensorRT (18 % in one user's report): the float32 graph, "
            "quantized here, has FP16 around INT8"
        )
    return Quantized("tensorrt" if symmetric else "ort-cpu", share, tuple(warnings))


def _code_type(graph: OnnxGraph, node: onnx.NodeProto) -> int:
    zero = graph.initializers.get(node.input[2]) if len(node.input) > 2 else None
    codes = graph.initializers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    held = codes if zero is None else zero
    made_by = graph.producer.get(node.input[0])
    if held is None and made_by is not None and made_by.op_type == "QuantizeLinear":
        return _code_type(graph, made_by)
    return TensorProto.UINT8 if held is None else int(held.data_type)


def _is_centered(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    zero = graph.initializers.get(node.input[2]) if len(node.input) > 2 else None
    return zero is None or not numpy_helper.to_array(zero).any()
