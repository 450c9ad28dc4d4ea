"""Small graphs for the tests of `edgecnn.graph`: one line per node, the weights made up here."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def build(text: str, size: int = 8, channels: int = 4) -> onnx.ModelProto:
    """A model from lines `OUT = Op(IN, ..., key=value)`; the first tensor is `input`, the last line makes the output.

    `Conv` and `Gemm` get weights `OUT.weight` and `OUT.bias` of `out=`, `k=`, `stride=`, `group=`, channels counted
    along; other attributes are Python literals. A node is named after its output: `conv1/Conv` makes `conv1`.
    """
    rng = np.random.default_rng(0)
    nodes, initializers = [], []
    width = {"input": channels}
    for line in filter(None, (part.strip() for part in text.strip().splitlines())):
        out, call = (part.strip() for part in line.split("=", 1))
        outs = [name.strip() for name in out.split(",")]
        op, arguments = call[:-1].split("(", 1)
        parts = _split(arguments)
        inputs = [p for p in parts if "=" not in p]
        options = {k: eval(v, {}) for k, v in (p.split("=", 1) for p in parts if "=" in p)}  # noqa: S307
        name = outs[0]
        arrays, attributes, made = _parameters(op, options, width.get(inputs[0], channels), rng)
        for suffix, array in arrays.items():
            initializers.append(numpy_helper.from_array(array, f"{name}.{suffix}"))
            inputs.append(f"{name}.{suffix}")
        total = sum(width.get(i, 0) for i in inputs)
        width.update((o, made or (total if op == "Concat" else width.get(inputs[0], channels))) for o in outs)
        nodes.append(helper.make_node(op, inputs, outs, f"{name}/{op}", **attributes))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, size, size])],
        [helper.make_tensor_value_info(outs[0], TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model)
    del model.graph.value_info[:]
    return model


def _split(arguments: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, c in enumerate(arguments + ","):
        depth += (c in "[(") - (c in "])")
        if c == "," and depth == 0:
            parts.append(arguments[start:i].strip())
            start = i + 1
    return [p for p in parts if p]


def _parameters(
    op: str, options: dict[str, Any], width: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, Any], int | None]:
    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, (2 / max(1, np.prod(shape[1:]))) ** 0.5, shape).astype(np.float32)

    if op == "Conv":
        k, group, out = int(options.get("k", 1)), int(options.get("group", 1)), int(options.get("out", width))
        attributes = {
            "kernel_shape": [k, k],
            "pads": [k // 2] * 4,
            "strides": [int(options.get("stride", 1))] * 2,
            "group": group,
        }
        return {"weight": normal(out, width // group, k, k), "bias": normal(out, 1).ravel() * 0.1}, attributes, out
    if op == "Gemm":
        out, rows = int(options.get("out", 3)), int(options.get("rows", width))
        return {"weight": normal(out, rows), "bias": normal(out, 1).ravel() * 0.1}, {"transB": 1}, out
    if op == "BatchNormalization":
        ones = np.ones(width, np.float32)
        return {"scale": ones, "bias": ones * 0.1, "mean": ones * 0.05, "var": ones * 0.9}, {}, width
    if op == "Reshape":
        return {"shape": np.asarray(options["to"], np.int64)}, {}, int(options.get("out", width))
    if op == "ReduceMean":
        return {"axes": np.asarray([2, 3], np.int64)}, {"keepdims": int(options.get("keepdims", 0))}, width
    if "by" in options:
        return {"by": np.asarray(options["by"], np.float32)}, {}, width
    if op == "Clip":
        return {"min": np.float32(0).reshape(()), "max": np.float32(6).reshape(())}, {}, width
    if op == "Pad":
        return {"pads": np.asarray(options["pads"], np.int64)}, {}, int(options.get("out", width))
    if op == "Slice":
        start, stop, axis = (np.asarray([v], np.int64) for v in options["range"])
        return {"start": start, "stop": stop, "axis": axis}, {}, int(options.get("out", width))
    if op == "Split":
        return {}, {"axis": 1, "num_outputs": 2}, width // 2
    return {}, dict(options), None
