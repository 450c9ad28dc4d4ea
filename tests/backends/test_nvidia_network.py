"""Multiply-adds by ONNX node, from the network that NVIDIA's real parser makes of a graph."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecnn.backends.trt.library import logger_for
from edgecnn.backends.trt.network import macs_by_node
from edgecnn.graph.onnx_graph import count_multiply_adds
from tests.fakes.graphs import build
from tests.fakes.tiny import CONV_MACS, GEMM_MACS, tiny_graph

pytestmark = [pytest.mark.onnx, pytest.mark.nvidia]

Counted = Callable[[onnx.ModelProto], dict[str, int | None]]


@pytest.fixture
def counted(tmp_path: Path, tensorrt_rtx: Path) -> Counted:
    """`counted(model)` by TensorRT-RTX's parser."""
    trt: Any = importlib.import_module("tensorrt_rtx")

    def count(model: onnx.ModelProto) -> dict[str, int | None]:
        path = tmp_path / "net.onnx"
        path.write_bytes(model.SerializeToString())
        builder = trt.Builder(logger_for(trt))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger_for(trt))
        assert parser.parse_from_file(str(path))
        return macs_by_node(trt, network)

    return count


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_same_in_every_precision(counted: Counted, precision: str) -> None:
    """Casts and Q/DQ change neither names nor numbers."""
    assert counted(tiny_graph(precision)) == {"/conv/Conv": CONV_MACS, "/fc/Gemm": GEMM_MACS}


def test_as_they_are_counted_in_the_graph(counted: Counted) -> None:
    model = build(
        """
        a = Conv(input, out=8, k=3, stride=2)
        b = Conv(a, out=8, k=3, group=8)
        c = Conv(b, out=12, k=1, group=4)
        p = GlobalAveragePool(c)
        f = Flatten(p)
        logits = Gemm(f, out=10)
        """,
        size=9,
    )
    by_output = count_multiply_adds(model)
    expected = {n.name: by_output[n.output[0]] for n in model.graph.node if n.output[0] in by_output}
    assert len(expected) == 4
    assert counted(model) == expected


def test_transposed_convolutions_products_over_pixels_and_names_with_brackets(counted: Counted) -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["input", "up"], ["a"], "/layers[0]/up", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MatMul", ["a", "mix"], ["b"], "/layers[1]/mix"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "/pool"),
        helper.make_node("Flatten", ["c"], ["d"], "/flat"),
        helper.make_node("Gemm", ["d", "fc"], ["logits"], "/fc"),
    ]
    shapes = {"up": (3, 4, 2, 2), "mix": (16, 6), "fc": (4, 5)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    assert counted(model) == {
        "/layers[0]/up": 3 * 4 * 2 * 2 * 8 * 8,
        "/layers[1]/mix": 4 * 16 * 16 * 6,
        "/fc": 4 * 5,
    }
