"""The device memory in which contexts compute: one block for those that never run at the same time, a block each for
streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.backends import BuildOptions, load_backend
from edgecnn.backends._cuda import load_cuda
from edgecnn.backends.trt.contexts import allocate_block, shaped_context
from edgecnn.backends.trt.library import logger_for, recording
from edgecnn.errors import BackendError, DeviceError
from edgecnn.recipe.schema import BatchSettings
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.fake_tensorrt import ACTIVATION_BYTES

pytestmark = pytest.mark.onnx

MAX = 8


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def plan(one_trt: Any, graph: Callable[..., Path]) -> Path:
    source = graph()
    options = BuildOptions(target="l4", batch=BatchSettings(1, 2, MAX))
    load_backend("trt").engine_from_onnx(source, source.with_suffix(".plan"), options)
    return source.with_suffix(".plan")


def test_every_shape_computes_in_the_same_block(one_trt: Any, device: FakeDevice, plan: Path) -> None:
    with load_backend("trt").open_engine(plan) as session:
        for n in (1, 2, 3, 1, 2, 3, 8):
            session.run(images(n))
        session.layer_runs_ms(images(2), queries=1)
        blocks = [held for held in device.memory.values() if len(held) % ACTIVATION_BYTES == 0]
        assert [len(block) for block in blocks] == [ACTIVATION_BYTES * MAX]
        contexts = list(one_trt._live["IExecutionContext"])
        assert len(contexts) >= 3
        assert not any(context._own_memory for context in contexts), "each would take the memory of the whole profile"


def test_what_is_only_inspected_takes_no_memory(device: FakeDevice, plan: Path) -> None:
    """The build's read-back among it."""
    assert device.memory == {}
    with load_backend("trt").open_engine(plan) as session:
        held = dict(device.memory)
        session.layers(4)
        assert device.memory == held


def opened(trt: Any, plan: Path) -> tuple[Any, Any]:
    runtime = trt.Runtime(logger_for(trt))
    return runtime, runtime.deserialize_cuda_engine(plan.read_bytes())


def addresses(cuda: Any, held: contextlib.ExitStack, context: Any, engine: Any) -> None:
    for index in range(engine.num_io_tensors):
        address = cuda.malloc(MAX * 3 * 64 * 4)
        held.callback(cuda.free, address)
        assert context.set_tensor_address(engine.get_tensor_name(index), address)


def test_streams_have_a_block_each(one_trt: Any, device: FakeDevice, plan: Path) -> None:
    cuda, (runtime, engine) = load_cuda(), opened(one_trt, plan)
    with contextlib.ExitStack() as held, recording(one_trt) as messages:
        blocks = [allocate_block(cuda, engine, held) for _ in range(3)]
        several = [shaped_context(one_trt, engine, "input", (2, 3, 8, 8), messages, block) for block in blocks]
        assert len({context._block for context in several}) == 3
        streams = [cuda.create_stream() for _ in several]
        for context, stream in zip(several, streams, strict=True):
            held.callback(cuda.destroy_stream, stream)
            addresses(cuda, held, context, engine)
        assert all(c.execute_async_v3(cuda.handle(s)) for c, s in zip(several, streams, strict=True)), messages
        for stream in streams:
            cuda.synchronize_stream(stream)
    assert set(device.live().values()) == {0}
    del several, engine, runtime


def test_two_streams_over_one_block_would_be_told(one_trt: Any, plan: Path) -> None:
    """That the test above can fail."""
    cuda, (runtime, engine) = load_cuda(), opened(one_trt, plan)
    with contextlib.ExitStack() as held, recording(one_trt) as messages:
        block = allocate_block(cuda, engine, held)
        ran = []
        for _ in range(2):
            context, stream = (
                shaped_context(one_trt, engine, "input", (2, 3, 8, 8), messages, block),
                cuda.create_stream(),
            )
            held.callback(cuda.destroy_stream, stream)
            addresses(cuda, held, context, engine)
            ran.append(context.execute_async_v3(cuda.handle(stream)))
        assert ran == [True, False]
        context = shaped_context(one_trt, engine, "input", (2, 3, 8, 8), messages)
        addresses(cuda, held, context, engine)
        assert not context.execute_async_v3(cuda.handle(stream)), "without a block it only tells shapes"
    del context, engine, runtime


def test_an_engine_that_needs_no_memory_gets_none(
    one_trt: Any, device: FakeDevice, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_trt.ICudaEngine, "device_memory_size_v2", property(lambda self: 0))
    cuda, (runtime, engine) = load_cuda(), opened(one_trt, plan)
    with contextlib.ExitStack() as held, recording(one_trt) as messages:
        assert allocate_block(cuda, engine, held).nbytes == 0
        shaped_context(one_trt, engine, "input", (2, 3, 8, 8), messages, allocate_block(cuda, engine, held))
        assert not messages
        assert device.memory == {}
    del engine, runtime


def test_no_memory_for_the_block_is_said(device: FakeDevice, plan: Path) -> None:
    device.fail["cudaMalloc"] = 2
    with pytest.raises(DeviceError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        load_backend("trt").open_engine(plan)
    assert set(device.live().values()) == {0}
    device.fail.clear()
    with (
        load_backend("trt").open_engine(plan) as session,
        pytest.raises(BackendError, match=r"takes \(1\.\.8\)x3x8x8"),
    ):
        session.run(np.zeros((9, 3, 8, 8), np.float32))
