"""One small CNN as FP32, FP16 (casts at the boundary) and INT8 (Q/DQ, FP32 around) graph, opset 19."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS, MAPS, SIZE, CLASSES = 3, 4, 8, 5
CONV_MACS = MAPS * CHANNELS * 9 * SIZE * SIZE
GEMM_MACS = MAPS * CLASSES


def tiny_graph(precision: str, batch: int | None = None) -> onnx.ModelProto:
    """Conv 3x3 + Relu + global average pool + Gemm, input [batch, 3, 8, 8], logits [batch, 5]."""
    rng = np.random.default_rng(0)
    dtype = np.float16 if precision == "fp16" else np.float32
    arrays = {
        "conv.weight": rng.normal(0, 0.3, (MAPS, CHANNELS, 3, 3)).astype(dtype),
        "conv.bias": rng.normal(0, 0.1, MAPS).astype(dtype),
        "fc.weight": rng.normal(0, 0.5, (CLASSES, MAPS)).astype(dtype),
        "fc.bias": rng.normal(0, 0.1, CLASSES).astype(dtype),
    }
    ends = {"input": "input", "logits": "logits"}
    nodes, more = [], {}
    conv, fc = ["input", "conv.weight", "conv.bias"], ["flat", "fc.weight", "fc.bias"]
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", ["input"], ["half"], "cast_in", to=TensorProto.FLOAT16))
        conv[0], ends["logits"] = "half", "half_logits"
    if precision == "int8":
        for inputs, at in ((conv, 0), (conv, 1), (fc, 0), (fc, 1)):
            name = inputs[at]
            scales = {f"{name}.scale": np.float32(0.02), f"{name}.zero": np.int8(0)}
            more |= {k: np.array(v) for k, v in scales.items()}
            nodes += _pair(name, *scales) if name != "flat" else []
            inputs[at] = f"{name}.dq"
    nodes.append(helper.make_node("Conv", conv, ["conv"], "/conv/Conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["conv"], ["relu"], "/conv/Relu"))
    nodes.append(helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "/pool/GlobalAveragePool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], "/Flatten"))
    if precision == "int8":
        nodes += _pair("flat", "flat.scale", "flat.zero")
    nodes.append(helper.make_node("Gemm", fc, [ends["logits"]], "/fc/Gemm", transB=1))
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", ["half_logits"], ["logits"], "cast_out", to=TensorProto.FLOAT))
    axis = "batch" if batch is None else batch
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [axis, CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [axis, CLASSES])],
        [numpy_helper.from_array(a, n) for n, a in (arrays | more).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _pair(name: str, scale: str, zero: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}.q"], f"{name}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [f"{name}.q", scale, zero], [f"{name}.dq"], f"{name}/DequantizeLinear"),
    ]
