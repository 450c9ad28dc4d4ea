"""Extra outputs and debug tensors in NVIDIA's real network and builder (TensorRT-RTX), without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import onnx

    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.backends.trt.build import make_builder, make_network, parse_graph
    from edgecnn.backends.trt.check import _plan as plan_of
    from edgecnn.backends.trt.flavor import RTX
    from edgecnn.backends.trt.library import load_tensorrt, recording
    from edgecnn.backends.trt.watched import _listener as make_listener
    from edgecnn.backends.trt.watched import _mark_outputs as mark_outputs
    from edgecnn.diagnose.graph_tensors import GraphTensors
    from edgecnn.errors import BackendError
    from tests.fakes.resnet50 import resnet50
    from tests.fakes.tiny import tiny_graph

pytestmark = [pytest.mark.onnx, pytest.mark.nvidia, pytest.mark.usefixtures("tensorrt_rtx")]


def parsed(path: Path) -> tuple[Any, ...]:
    trt = load_tensorrt(RTX)
    with recording(trt) as messages:
        builder = make_builder(trt, None, messages)
        network = make_network(trt, builder)
        parser = parse_graph(trt, RTX, network, path, Sidecar(kind="graph"), messages)
    return trt, builder, network, parser


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "resnet50"])
def test_every_suspect_is_a_tensor_of_nvidias_network(tmp_path: Path, precision: str) -> None:
    """The names of the graph are those of the network, all of them can be outputs, and that network can be built."""
    path = tmp_path / "m.onnx"
    onnx.save(resnet50() if precision == "resnet50" else tiny_graph(precision), path)
    trt, builder, network, parser = parsed(path)
    suspects = [s.tensor for s in GraphTensors(path).suspects if s.can_be_output]
    before = network.num_outputs
    mark_outputs(network, path, suspects)
    assert network.num_outputs == before + len(suspects) - 1  # logits is one
    with pytest.raises(BackendError, match="has no tensor nothing"):
        mark_outputs(network, path, ["nothing"])
    assert plan_of(trt, builder, network) is not None
    del parser


def test_debug_tensors_are_marked_built_and_listened_to(tmp_path: Path) -> None:
    onnx.save(tiny_graph("fp16"), tmp_path / "m.onnx")
    trt, builder, network, parser = parsed(tmp_path / "m.onnx")
    assert network.mark_unfused_tensors_as_debug_tensors() is True
    assert plan_of(trt, builder, network) is not None
    unused: Any = None
    listener = make_listener(trt, unused, unused)
    assert isinstance(listener, trt.IDebugListener)
    shape, host = trt.Dims([2]), trt.TensorLocation.HOST
    values = np.array([1.5, -2], np.float16)
    assert listener.process_debug_tensor(values.ctypes.data, host, trt.DataType.HALF, shape, "x", 0)
    np.testing.assert_array_equal(listener.told["x"], values)
    del parser
