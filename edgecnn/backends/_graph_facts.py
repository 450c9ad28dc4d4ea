"""What `edgecnn inspect` prints of an ONNX graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgecnn.backends._graph_file import read_structure
from edgecnn.errors import ArtifactError
from edgecnn.results.engine import Scheme


def describe_graph(path: Path) -> dict[str, Any]:
    """Opset, inputs, outputs, operators and types of weights; raises `ArtifactError` for a damaged file."""
    try:
        import onnx
    except ModuleNotFoundError:
        return {"graph": "not read: the package onnx is not installed here"}
    from google.protobuf.message import DecodeError

    try:
        model = read_structure(path)
    except (OSError, DecodeError, ValueError) as exc:
        raise ArtifactError(f"{path}: not a whole ONNX graph ({exc})", "copy it again, or export it again") from exc
    if not model.graph.node:
        raise ArtifactError(f"{path}: an ONNX graph without nodes", "copy it again, or export it again")
    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    types = Counter(names.get(t.data_type, f"type {t.data_type}") for t in model.graph.initializer)
    return {
        "opset": next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None),
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(v) for v in model.graph.input],
        "outputs": [_value(v) for v in model.graph.output],
        "nodes": len(model.graph.node),
        "operators": dict(Counter(n.op_type for n in model.graph.node).most_common()),
        "initializers": dict(types.most_common()),
    }


def precision_of_graph(path: Path) -> str:
    """int8 for a graph with quantized values, fp16 for one with FP16 weights, else fp32: the precision is in the graph.
    "" where onnx is not installed."""
    facts = describe_graph(path)
    operators, weights = facts.get("operators"), facts.get("initializers")
    if operators is None or weights is None:
        return ""
    if any("QuantizeLinear" in name or name.startswith("QLinear") or name.endswith("Integer") for name in operators):
        return "int8"
    return "fp16" if "FLOAT16" in weights else "fp32"


def scheme_of_graph(path: Path) -> Scheme:
    """tensorrt where every Q/DQ pair is one that TensorRT takes (int8, zero point 0, no integer bias), ort-cpu for
    other integers, "" without any or where onnx is not installed."""
    if precision_of_graph(path) != "int8":
        return ""
    import onnx

    graph = read_structure(path).graph
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    others = any(n.op_type.startswith("QLinear") or n.op_type.endswith("Integer") for n in graph.node)
    constants = {i.name: i for i in graph.initializer}
    zeros = [constants.get(n.input[2]) if len(n.input) > 2 else None for n in pairs]
    symmetric = all(z is not None and z.data_type == onnx.TensorProto.INT8 and _is_zero(z) for z in zeros)
    return "tensorrt" if symmetric and not others else "ort-cpu"


def _is_zero(tensor: Any) -> bool:
    from onnx import TensorProto, numpy_helper

    return tensor.data_location != TensorProto.EXTERNAL and not numpy_helper.to_array(tensor).any()


def _value(value: Any) -> str:
    tensor = value.type.tensor_type
    dims = [str(d.dim_param) or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
    names = {1: "float32", 10: "float16", 3: "int8", 2: "uint8", 6: "int32", 7: "int64"}
    return f"{value.name} {names.get(tensor.elem_type, tensor.elem_type)} [{', '.join(dims)}]"
