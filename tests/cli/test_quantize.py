"""`quantize` says what TensorRT would refuse, while the graph is still here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")

from tests.host.graphs import build  # noqa: E402


@pytest.mark.parametrize("frozen", [False, True])
def test_a_graph_that_tensorrt_would_refuse_is_said(frozen: bool, tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    model = build("c = Conv(input)\nr = Relu(c)\nlogits = Conv(r)")
    if frozen:
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "m.onnx")
    call = ("quantize", tmp_path / "m.onnx", "--precision", "fp16", "-o", tmp_path / "h.onnx")
    done = edgecnn(*call)
    assert done.code == 0, done.err
    assert ("TensorRT would refuse this graph: input: its batch is frozen to 1" in done.err) == frozen
    assert len(json.loads(edgecnn(*call, "--json").out)["refused"]) == frozen
