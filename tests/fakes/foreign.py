"""Small classifiers as other tools write them, built node by node with the conventions of no one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES, CHANNELS = 8, 5, 8
PRODUCTS = CHANNELS * SIDE**2 * 27 + CHANNELS * SIDE**2 * 9 * CHANNELS + CHANNELS * CLASSES
"""Multiply-adds of what stands around the middle: two convolutions and the Gemm."""

N = helper.make_node


def weights(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Seeded weights that keep the variance."""
    made = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return np.asarray(made / np.sqrt(max(int(np.prod(shape[1:])), 1)), np.float32)


def integers(*values: int) -> npt.NDArray[np.int64]:
    """A list of sizes or axes."""
    return np.array(values, np.int64)


CONSTANTS: dict[str, Any] = {
    "w1": weights(CHANNELS, 3, 3, 3),
    "b1": weights(CHANNELS),
    "w2": weights(CHANNELS, CHANNELS, 3, 3),
    "b2": weights(CHANNELS),
    "fc": weights(CLASSES, CHANNELS),
    "fb": weights(CLASSES),
    "gamma": 1 + weights(CHANNELS, seed=2) / 4,
    "beta": weights(CHANNELS, seed=3),
    "mean": weights(CHANNELS, seed=4),
    "var": np.abs(weights(CHANNELS, seed=5)) + np.float32(0.5),
}
NORM = ("gamma", "beta", "mean", "var")


def classifier(
    middle: Sequence[onnx.NodeProto],
    *,
    end: Sequence[onnx.NodeProto] = (N("Gemm", ["f", "fc", "fb"], ["y"], transB=1),),
    given: Sequence[int | str] = ("n", 3, SIDE, SIDE),
    opset: int = 17,
    ir: int = 8,
    **more: Any,
) -> onnx.ModelProto:
    """Conv (c) -> middle (c to m) -> Conv, Relu, pool and Flatten (f) -> end (y)."""
    nodes = [N("Conv", ["x", "w1", "b1"], ["c"], pads=[1] * 4), *middle]
    nodes += [N("Conv", ["m", "w2", "b2"], ["c2"], pads=[1] * 4), N("Relu", ["c2"], ["r"])]
    nodes += [N("GlobalAveragePool", ["r"], ["p"]), N("Flatten", ["p"], ["f"]), *end]
    used = {name for n in nodes for name in n.input}
    held = {k: v for k, v in {**CONSTANTS, **more}.items() if k in used}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(given))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [given[0], CLASSES])]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in held.items()]
    graph = helper.make_graph(nodes, "elsewhere", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def shuffle_unit() -> onnx.ModelProto:
    """Halves split and channels shuffled by sizes that are computed of shapes, as TorchScript writes ShuffleNet."""
    middle = [
        N("Shape", ["c"], ["s"]),
        N("Gather", ["s", "one"], ["channels"], axis=0),
        N("Div", ["channels", "two"], ["half"]),
        N("Slice", ["c", "zero", "half", "one"], ["a"]),
        N("Slice", ["c", "half", "channels", "one"], ["b"]),
        N("Conv", ["a", "wa"], ["a2"]),
        N("Relu", ["a2"], ["a3"]),
        N("Concat", ["a3", "b"], ["cat"], axis=1),
        N("Shape", ["cat"], ["s2"]),
        N("Gather", ["s2", "zero"], ["count"], axis=0),
        N("Gather", ["s2", "two"], ["height"], axis=0),
        N("Gather", ["s2", "three"], ["width"], axis=0),
        N("Concat", ["count", "two", "four", "height", "width"], ["grouped"], axis=0),
        N("Reshape", ["cat", "grouped"], ["r5"]),
        N("Transpose", ["r5"], ["t5"], perm=[0, 2, 1, 3, 4]),
        N("Concat", ["count", "eight", "height", "width"], ["whole"], axis=0),
        N("Reshape", ["t5", "whole"], ["m"]),
    ]
    sizes = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "eight": 8}
    constants: dict[str, Any] = {name: integers(value) for name, value in sizes.items()}
    return classifier(middle, wa=weights(4, 4, 1, 1), **constants)


def frozen_at_four() -> onnx.ModelProto:
    """The batch is written into an Expand: no rewriting frees it."""
    middle = [N("Expand", ["one", "whole"], ["e"]), N("Mul", ["c", "e"], ["m"])]
    constants: dict[str, Any] = {"one": np.ones(1, np.float32), "whole": integers(4, CHANNELS, SIDE, SIDE)}
    return classifier(middle, given=(4, 3, SIDE, SIDE), **constants)
