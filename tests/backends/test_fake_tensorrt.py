"""The fake TensorRT refuses and tells what the real one would, where our code must not lean on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions, load_backend
from edgecnn.backends._cuda import load_cuda
from edgecnn.errors import BackendError, DeviceError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.layers import layers_from_json, shares_of
from tests.fakes.fake_tensorrt import injected
from tests.fakes.tiny import CONV_MACS, GEMM_MACS

pytestmark = pytest.mark.onnx

Graph = Callable[..., Path]


def build(source: Path) -> Path:
    plan = source.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(source, plan, BuildOptions("gpu", BatchSettings(1, 2, 4)))
    return plan


def test_mixed_precision_is_told_by_its_share(trt: Any, graph: Graph) -> None:
    with injected(trt, "mixed"):
        facts = read_sidecar(build(graph("int8"))).facts
    assert facts["int8_share_pct"] == pytest.approx(100 * CONV_MACS / (CONV_MACS + GEMM_MACS))
    assert shares_of(layers_from_json(facts["layers"])).fp16_layers_pct == 50


def test_lost_precision_is_refused_though_the_tensors_are_int8(trt: Any, graph: Graph) -> None:
    source = graph("int8")
    with injected(trt, "lost"), pytest.raises(BackendError, match="int8 was asked for, and none .* obtained is fp16"):
        build(source)
    assert not source.with_suffix(".plan").exists()


def test_a_capture_before_the_first_enqueue_fails(one_trt: Any, graph: Graph) -> None:
    cuda = load_cuda()
    with load_backend("trt").open_engine(build(graph())) as session:
        images = np.zeros((2, 3, 8, 8), np.float32)
        session.run(images)
        (ready,) = session._shapes.values()
        fresh = session._new_shape(images.shape, [])
        for shape, works in ((fresh, False), (ready, True)):
            cuda.begin_capture(session._stream)
            assert shape.context.execute_async_v3(cuda.handle(session._stream)) is works
            if works:
                cuda.destroy_graph(cuda.end_capture(session._stream))
            else:
                with pytest.raises(DeviceError, match="cudaStreamEndCapture failed"):
                    cuda.end_capture(session._stream)
                cuda.clear_error()
        session.run(images)
        assert session.info.graph


def changed(graph: Graph, change: Callable[[Any], None]) -> Path:
    """The INT8 graph with one constant of it changed."""
    import onnx

    path = graph("int8")
    model, sidecar = onnx.load(path), read_sidecar(path)
    change({t.name: t for t in model.graph.initializer})
    content = model.SerializeToString()
    write_artifact(path, lambda p: p.write_bytes(content) and None, sidecar)
    return path


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("input.scale", np.float16(0.02), "FLOAT tensor with a scale of type HALF"),
        ("conv.weight.scale", np.float16(0.02), "FLOAT tensor with a scale of type HALF"),
        ("input.scale", np.float32(-0.02), "must all be positive"),
        ("flat.scale", np.float32(0.0), "must all be positive"),
        ("input.zero", np.int8(3), "non-zero zero point"),
        ("input.zero", np.uint8(0), "only INT8"),
    ],
)
def test_q_dq_and_the_types_of_scales_are_checked_at_build(
    one_trt: Any, graph: Graph, name: str, value: Any, words: str
) -> None:
    from onnx import numpy_helper

    path = changed(graph, lambda found: found[name].CopyFrom(numpy_helper.from_array(np.array(value), name)))
    with pytest.raises(BackendError, match=words):
        build(path)
