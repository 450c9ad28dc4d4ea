"""A ResNet-50 of few channels: all its nodes, and next to none of its multiply-adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCKS = (3, 4, 6, 3)


def resnet50(size: int = 32, width: int = 2, seed: int = 0) -> onnx.ModelProto:
    """The nodes of a ResNet-50 with BatchNorm folded (He et al. 2015), of few channels: 122 of them."""
    rng, nodes, weights = np.random.default_rng(seed), [], []

    def add(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [name], f"{name}/{operator}", **attributes))
        return name

    def conv(x: str, name: str, before: int, after: int, k: int = 1, stride: int = 1) -> str:
        values = rng.normal(0, (2 / (before * k * k)) ** 0.5, (after, before, k, k)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name}.weight"))
        pads = [k // 2] * 4
        return add("Conv", [x, f"{name}.weight"], name, kernel_shape=[k, k], strides=[stride] * 2, pads=pads)

    x = add("Relu", [conv("input", "conv1", 3, width, 7, 2)], "relu1")
    x = add("MaxPool", [x], "pool1", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = width
    for stage, blocks in enumerate(BLOCKS):
        inner = width * 2**stage
        for block in range(blocks):
            at, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            y = add("Relu", [conv(x, f"{at}.conv1", channels, inner)], f"{at}.relu1")
            y = add("Relu", [conv(y, f"{at}.conv2", inner, inner, 3, stride)], f"{at}.relu2")
            y = conv(y, f"{at}.conv3", inner, 4 * inner)
            x = conv(x, f"{at}.downsample", channels, 4 * inner, 1, stride) if not block else x
            x, channels = add("Relu", [add("Add", [y, x], f"{at}.add")], f"{at}.relu3"), 4 * inner
    x = add("Flatten", [add("GlobalAveragePool", [x], "gap")], "flat")
    values = rng.normal(0, channels**-0.5, (10, channels)).astype(np.float32)
    weights.append(numpy_helper.from_array(values, "fc.weight"))
    add("Gemm", [x, "fc.weight"], "logits", transB=1)
    graph = helper.make_graph(
        nodes,
        "resnet50",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)
