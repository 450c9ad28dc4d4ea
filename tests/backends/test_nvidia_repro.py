"""`edgecnn repro` with NVIDIA's real parser and builder: what is left fails alike, by NVIDIA's package alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgecnn import cli
from edgecnn.diagnose.repro import reduce_failure
from edgecnn.graph.fp16 import to_fp16
from tests.fakes.graphs import build
from tests.fakes.tiny import tiny_graph

pytestmark = [pytest.mark.onnx, pytest.mark.nvidia]

NET = """
acme1 = Conv(input, out=8, k=3)
acme2 = Relu(acme1)
acme3 = Conv(acme2, out=8, k=3)
acme4 = Add(acme3, acme2)
acme5 = GlobalAveragePool(acme4)
acme6 = Flatten(acme5)
acme7 = Gemm(acme6, out=10)
"""


def unknown_operator() -> onnx.ModelProto:
    model = build(NET)
    model.graph.node[1].op_type = "Sharpen"
    return model


def frozen_batch() -> onnx.ModelProto:
    """A Reshape to 4 images, which parses and does not build for one."""
    model = build(NET)
    reshape = next(node for node in model.graph.node if node.op_type == "Flatten")
    reshape.op_type = "Reshape"
    reshape.ClearField("attribute")
    reshape.input.append("acme.shape")
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 8], np.int64), "acme.shape"))
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    return model


def scale_of_another_type() -> onnx.ModelProto:
    model = to_fp16(tiny_graph("int8"), None)[0]
    weights = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0].startswith("conv"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "acme.scale"))
    weights.input[1] = "acme.scale"
    return model


def zero_point() -> onnx.ModelProto:
    model = tiny_graph("int8")
    tensor = next(t for t in model.graph.initializer if t.name == "flat.zero")
    tensor.CopyFrom(numpy_helper.from_array(np.int8(3), tensor.name))
    return model


@pytest.mark.parametrize(
    ("make", "failure", "operators", "values"),
    [
        (unknown_operator, "parser, INVALID_NODE, Sharpen", {"Sharpen"}, 0),
        (frozen_batch, "builder, Error Code 4, SHUFFLE", {"Reshape"}, 0),
        (scale_of_another_type, "parser, INVALID_NODE, Conv, validateTypes", {"Conv", "DequantizeLinear"}, 0),
        (zero_point, "parser, INVALID_NODE, QuantizeLinear", {"QuantizeLinear"}, 1),
    ],
    ids=["unknown operator", "frozen batch", "scale of another type", "zero point"],
)
def test_what_is_left_fails_alike_by_nvidia_s_package_alone(
    make: Callable[[], onnx.ModelProto],
    failure: str,
    operators: set[str],
    values: int,
    tmp_path: Path,
    tensorrt_rtx: Path,
) -> None:
    model = make()
    onnx.save(model, tmp_path / "acme.onnx")
    found = reduce_failure(tmp_path / "acme.onnx", tmp_path / "out")
    assert found.failure.startswith(failure)
    assert set(found.operators) <= operators
    assert found.nodes <= len(operators)
    assert found.minimal
    assert (len(found.values_kept), found.names_kept) == (values, False)
    content = (tmp_path / "out" / "graph.onnx").read_bytes()
    assert b"acme" not in content
    assert [t.name for t in model.graph.initializer if len(t.raw_data) > 64 and t.raw_data in content] == []
    left = onnx.load(tmp_path / "out" / "graph.onnx")
    assert all(value.type.tensor_type.elem_type != TensorProto.UNDEFINED for value in left.graph.input)
    environment = {**os.environ, "PYTHONPATH": str(tensorrt_rtx)}
    script = [sys.executable, str(tmp_path / "out" / "reproduce.py")]
    run = subprocess.run(script, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert run.returncode == 1, run.stderr
    assert ("the parser refuses it" if failure.startswith("parser") else "the builder fails") in run.stderr


def test_the_script_says_where_nothing_fails(tmp_path: Path, tensorrt_rtx: Path) -> None:
    """Its exit code 1 above is the failure's, not its own."""
    onnx.save(unknown_operator(), tmp_path / "net.onnx")
    reduce_failure(tmp_path / "net.onnx", tmp_path / "out")
    onnx.save(build(NET), tmp_path / "out" / "graph.onnx")
    environment = {**os.environ, "PYTHONPATH": str(tensorrt_rtx)}
    script = [sys.executable, str(tmp_path / "out" / "reproduce.py")]
    run = subprocess.run(script, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "a plan was built" in run.stdout


@pytest.mark.usefixtures("tensorrt_rtx")
def test_a_graph_that_nvidia_takes_is_not_reduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(build(NET), tmp_path / "net.onnx")
    assert cli.main(["repro", str(tmp_path / "net.onnx")]) == 2
    assert "TensorRT-RTX" in capsys.readouterr().err
    assert not (tmp_path / "net.repro").exists()
