"""What a parsed network asks for: its precision, and the multiply-adds of each ONNX node.

TensorRT hands layers out as plain ILayer; their class is set by hand to reach what only a convolution has (as
NVIDIA's own Python examples do).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.errors import GraphError

ONNX_NODE = re.compile(r"\[ONNX Layer: (.+?)\](?=\s*(?:\[ONNX Layer: |$))")  # names may hold brackets


def requested_precision(trt: Any, network: Any, graph: Path, source: Sidecar) -> str:
    """What the Q/DQ layers and FP16 tensors of a graph ask for; raises `GraphError` if its sidecar says otherwise."""
    quantising = {trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE}
    found = "fp32"
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in quantising:
            found = "int8"
            break
        if any(layer.get_output(k).dtype == trt.DataType.HALF for k in range(layer.num_outputs)):
            found = "fp16"
    promised = source.precision_requested or found
    if promised != found:
        raise GraphError(
            f"{graph}: its sidecar promises {promised}, and the graph is {found}",
            "the file is not the one that the sidecar describes, or it was changed: make it again",
        )
    return found


def macs_by_node(trt: Any, network: Any) -> dict[str, int | None]:
    """Multiply-adds for one image of every Conv, Gemm and MatMul, by ONNX node; None where a shape does not tell."""
    weighing = {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY}
    found: dict[str, int | None] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in weighing:
            nodes = ONNX_NODE.findall(layer.metadata) or [layer.name]
            found[nodes[0]] = _macs(trt, layer)
    return found


def _macs(trt: Any, layer: Any) -> int | None:
    taken, given = tuple(layer.get_input(0).shape), tuple(layer.get_output(0).shape)
    if any(n < 1 for n in taken[1:] + given[1:]) or len(taken) < 2:
        return None
    if layer.type == trt.LayerType.MATRIX_MULTIPLY:
        return int(math.prod(given[1:]) * taken[-1])
    forwards = layer.type == trt.LayerType.CONVOLUTION
    convolution = layer
    convolution.__class__ = trt.IConvolutionLayer if forwards else trt.IDeconvolutionLayer
    maps, points = (given[1], given[2:]) if forwards else (taken[1], taken[2:])
    channels = (taken[1] if forwards else given[1]) // convolution.num_groups
    return int(maps * channels * math.prod(convolution.kernel_size_nd) * math.prod(points))
