"""The CUDA seam: on the counting fake through both bindings, and with the real cuda-bindings."""

from __future__ import annotations

import gc
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edgecnn.backends import _cuda
from edgecnn.backends._cuda import load_cuda
from edgecnn.errors import BackendError, DeviceError, MissingPackageError
from tests.fakes.fake_cuda import FakeDevice, pycuda_module, runtime_module
from tests.fakes.round_trip import round_trip

pytestmark = pytest.mark.onnx

BINDINGS = ("cuda.bindings.runtime", "cuda.cudart", "pycuda.driver")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> Iterator[Any]:
    """`installed("cuda.cudart")` leaves just these bindings to be found."""

    def install(*names: str) -> None:
        for name in BINDINGS:
            make = pycuda_module if name == "pycuda.driver" else runtime_module
            monkeypatch.setitem(sys.modules, name, make(device) if name in names else None)
        _cuda._load.cache_clear()

    monkeypatch.delenv("EDGECNN_CUDA", raising=False)
    yield install
    _cuda._load.cache_clear()


@pytest.mark.parametrize(
    ("present", "wanted", "name"),
    [
        (["cuda.bindings.runtime"], "", "cuda-bindings"),
        (["cuda.cudart"], "", "cuda-bindings"),
        (["pycuda.driver"], "", "pycuda"),
        (list(BINDINGS), "", "cuda-bindings"),
        (list(BINDINGS), "pycuda", "pycuda"),
        (list(BINDINGS), "cuda-bindings", "cuda-bindings"),
    ],
)
def test_the_binding_that_is_installed_is_used(
    installed: Any, monkeypatch: pytest.MonkeyPatch, present: list[str], wanted: str, name: str
) -> None:
    installed(*present)
    monkeypatch.setenv("EDGECNN_CUDA", wanted)
    assert load_cuda().name == name


@pytest.mark.parametrize(
    ("present", "wanted", "words"),
    [
        ([], "", "needs the package 'cuda-bindings'"),
        (["cuda.bindings.runtime"], "pycuda", "needs the package 'pycuda'"),
        (["pycuda.driver"], "cuda-bindings", "needs the package 'cuda-bindings'"),
    ],
)
def test_a_missing_binding_is_named(
    installed: Any, monkeypatch: pytest.MonkeyPatch, present: list[str], wanted: str, words: str
) -> None:
    installed(*present)
    monkeypatch.setenv("EDGECNN_CUDA", wanted)
    with pytest.raises(MissingPackageError, match=words):
        load_cuda()


def test_an_unknown_binding_is_refused(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(*BINDINGS)
    monkeypatch.setenv("EDGECNN_CUDA", "cupy")
    with pytest.raises(BackendError, match="EDGECNN_CUDA=cupy: no such binding"):
        load_cuda()


@pytest.mark.parametrize("binding", ["cuda.bindings.runtime", "pycuda.driver"])
def test_a_round_trip_leaves_nothing(installed: Any, device: FakeDevice, binding: str) -> None:
    installed(binding)
    for _ in range(20):
        result, ms = round_trip(load_cuda())
        np.testing.assert_array_equal(result, np.arange(1 << 16).astype(np.uint8))
        assert ms > 0
    gc.collect()
    assert set(device.live().values()) == {0}


@pytest.mark.parametrize("binding", ["cuda.bindings.runtime", "pycuda.driver"])
def test_properties_and_memory(installed: Any, device: FakeDevice, binding: str) -> None:
    installed(binding)
    cuda = load_cuda()
    gpu = cuda.properties()
    assert (gpu.name, gpu.compute_capability, gpu.memory_bytes) == ("NVIDIA L4", "8.9", 24_000_000_000)
    assert (gpu.multiprocessors, gpu.integrated, gpu.cuda) == (58, False, "12.8")
    assert cuda.memory_info() == (device.total, device.total)


@pytest.mark.parametrize(
    ("call", "code", "words", "hint"),
    [
        ("cudaMalloc", 2, r"cudaMalloc failed: cudaErrorMemoryAllocation \(2\): out of memory", "free device memory"),
        ("cudaSetDevice", 35, r"cudaSetDevice failed: cudaErrorInsufficientDriver \(35\)", "NVIDIA GPU and its driver"),
        ("cudaSetDevice", 100, "cudaErrorNoDevice", "NVIDIA GPU and its driver"),
        ("cudaStreamSynchronize", 700, r"cudaStreamSynchronize failed: cudaErrorIllegalAddress \(700\)", "sticky"),
    ],
)
def test_every_error_names_the_call_and_the_code(
    installed: Any, device: FakeDevice, call: str, code: int, words: str, hint: str
) -> None:
    installed("cuda.bindings.runtime")
    device.fail[call] = code
    with pytest.raises(DeviceError, match=words) as caught:
        round_trip(load_cuda())
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("call", "code", "words"), [("cuMemAlloc", 2, "out of memory"), ("cuStreamSynchronize", 7, "cu")]
)
def test_pycuda_s_errors_become_ours(installed: Any, device: FakeDevice, call: str, code: int, words: str) -> None:
    installed("pycuda.driver")
    device.fail[call] = code
    with pytest.raises(DeviceError, match=f"{call} failed: .*{words}" if words != "cu" else call):
        round_trip(load_cuda())


def test_freeing_twice_is_an_error(installed: Any) -> None:
    installed("cuda.bindings.runtime")
    cuda = load_cuda()
    address = cuda.malloc(16)
    cuda.free(address)
    with pytest.raises(DeviceError, match="cudaFree failed: cudaErrorInvalidValue"):
        cuda.free(address)


@pytest.mark.nvidia
def test_the_real_bindings_have_every_call_that_is_used() -> None:
    """Names and numbers of arguments, against cuda-bindings as installed; the fake's answers are as long as theirs."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    fake = runtime_module(FakeDevice())
    calls = [name for name in vars(fake) if name.startswith("cuda") and callable(getattr(fake, name))]
    assert len(calls) > 25
    for constant in ("cudaHostAllocDefault", "cudaStreamNonBlocking", "cudaEventDefault"):
        assert getattr(runtime, constant) == getattr(fake, constant)
    for kind, member in (("cudaMemcpyKind", "cudaMemcpyHostToDevice"), ("cudaMemcpyKind", "cudaMemcpyDeviceToHost")):
        assert int(getattr(getattr(runtime, kind), member)) == int(getattr(getattr(fake, kind), member))
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == 1
    for name in calls:
        assert hasattr(runtime, name), name
    source = importlib.import_module("inspect").getsource(_cuda)
    used = {w for w in calls if f'"{w}"' in source or f".{w}" in source}
    assert {"cudaMalloc", "cudaStreamBeginCapture", "cudaGraphInstantiate", "cudaMemGetInfo"} <= used
    for name in used:
        if isinstance(getattr(runtime, name), type):
            continue
        text = (getattr(runtime, name).__doc__ or "").split(")")[0]
        code = getattr(fake, name).__wrapped__.__code__
        taken = text.count(",") + 1 if text.split("(")[1].strip() else 0
        assert code.co_argcount == taken, f"{name}: {text}"


REFUSED = """
from edgecnn.backends._cuda import load_cuda
from edgecnn.errors import DeviceError
try:
    load_cuda()
except DeviceError as exc:
    print(exc.message, exc.hint, sep="\\n")
"""


@pytest.mark.nvidia
def test_without_a_device_the_real_bindings_give_a_refusal() -> None:
    """In a process of its own, which is shown no GPU: so it holds on a machine that has one too."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "EDGECNN_CUDA"} | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", REFUSED], env=environment, capture_output=True, text=True, check=True)
    message, hint = done.stdout.splitlines()
    assert re.fullmatch(r"cudaSetDevice failed: cudaError\w+ \(\d+\): .+", message)
    assert "NVIDIA GPU and its driver" in hint
