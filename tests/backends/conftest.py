"""TensorRT and CUDA as strict fakes, and small graphs of each precision."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import _cuda
from tests.fakes.fake_cuda import FakeDevice, driver_module, runtime_module

TENSORRT_RTX = "1.7.1.116"
CUDA_PYTHON = "12.6.2.post1"
ONNXRUNTIME_GPU, PLUGIN = "1.31.1", "0.5.0"
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecnn-tests"  # read before a test sets it
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str, device: FakeDevice) -> Any:
    """Put the fakes where `import tensorrt` (or tensorrt_rtx) and the CUDA seam find them; returns the former."""
    from tests.fakes.fake_tensorrt import fake_tensorrt

    module = fake_tensorrt(version, device)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime_module(device))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver_module(device))
    for flavor in ("trt", "trt_rtx"):
        monkeypatch.setattr(f"edgecnn.backends.{flavor}.NATIVE", False)  # a child would lack these fakes: tests/remote
    monkeypatch.delenv("EDGECNN_CUDA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    _cuda._load.cache_clear()
    return module


@pytest.fixture
def device() -> FakeDevice:
    """An L4."""
    return FakeDevice()


@pytest.fixture(params=VERSIONS)
def trt(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice
) -> Iterator[Any]:
    """The fake tensorrt of each supported version, on the fake CUDA."""
    yield install(monkeypatch, tmp_path, request.param, device)
    _cuda._load.cache_clear()


@pytest.fixture
def one_trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice) -> Iterator[Any]:
    """The fake tensorrt 10.16, for what does not depend on the version."""
    yield install(monkeypatch, tmp_path, "10.16.1.11", device)
    _cuda._load.cache_clear()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice) -> Iterator[Any]:
    """onnxruntime-gpu with TensorRT 10 on an L4, and the plugin of TensorRT-RTX registered."""
    from tests.fakes.fake_onnxruntime import CPU, CUDA, PLUGIN_MODULE, RTX, TENSORRT, FakeRuntime

    fake = FakeRuntime(device, (TENSORRT, CUDA, RTX, CPU))
    for backend in ("ort_cuda", "ort_tensorrt", "ort_rtx"):
        monkeypatch.setattr(f"edgecnn.backends.{backend}.NATIVE", False)  # a child would not have these fakes
    monkeypatch.setitem(sys.modules, "onnxruntime", fake.module())
    monkeypatch.setitem(sys.modules, PLUGIN_MODULE, types.ModuleType(PLUGIN_MODULE))
    tensorrt: Any = types.ModuleType("tensorrt")
    tensorrt.__version__ = "10.16.1.11"
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime_module(device))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver_module(device))
    monkeypatch.delenv("EDGECNN_CUDA", raising=False)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _cuda._load.cache_clear()
    yield fake
    _cuda._load.cache_clear()


@pytest.fixture
def fake_rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice) -> Iterator[Any]:
    """The fake tensorrt_rtx, on the fake CUDA."""
    yield install(monkeypatch, tmp_path, f"rtx/{TENSORRT_RTX}", device)
    _cuda._load.cache_clear()


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Path]:
    """`graph("int8")` writes the small graph of a precision, with its sidecar unless `sidecar=False`."""
    from tests.fakes.tiny import tiny_graph

    def make(
        precision: str = "fp32", sidecar: bool = True, promised: str = "", batch: int | None = None, **facts: Any
    ) -> Path:
        path = tmp_path / f"model.{precision}.onnx"
        content = tiny_graph(precision, batch).SerializeToString()
        if sidecar:
            write_artifact(
                path,
                lambda p: p.write_bytes(content) and None,
                Sidecar(kind="graph", precision_requested=promised or precision, labels=["a", "b", "c"], facts=facts),
            )
        else:
            path.write_bytes(content)
        return path

    return make


def unpacked(name: str, *wheels: str) -> Path:
    """Wheels as pip unpacks them, once per machine, in a folder of their own; skips with pip's reason."""
    KEPT.mkdir(parents=True, exist_ok=True)
    folder = KEPT / name
    with (KEPT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            part = KEPT / f"{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(part), *wheels]
            found = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if found.returncode:
                pytest.skip(f"pip cannot install {', '.join(wheels)}: {found.stderr.strip()[-200:]}")
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tensorrt_rtx_folder() -> Path:
    """NVIDIA's TensorRT-RTX (its parser and builder need no GPU)."""
    return unpacked(TENSORRT_RTX, *(f"tensorrt-rtx-cu13{of}=={TENSORRT_RTX}" for of in ("", "-bindings", "-libs")))


@pytest.fixture(scope="session")
def cuda_python_folder() -> Path:
    """The CUDA bindings that a Jetson with JetPack 6 gets."""
    return unpacked(f"cuda-python-{CUDA_PYTHON}", f"cuda-python=={CUDA_PYTHON}")


@pytest.fixture(scope="session")
def onnxruntime_gpu_folder() -> Path:
    """ONNX Runtime with the providers for CUDA and TensorRT, whose libraries are not there."""
    return unpacked(f"onnxruntime-gpu-{ONNXRUNTIME_GPU}", f"onnxruntime-gpu=={ONNXRUNTIME_GPU}")


@pytest.fixture(scope="session")
def plugin_folder() -> Path:
    """ONNX Runtime's plugin of TensorRT-RTX."""
    return unpacked(f"onnxruntime-ep-rtx-{PLUGIN}", f"onnxruntime-ep-nv-tensorrt-rtx-cu13=={PLUGIN}")


@pytest.fixture
def tensorrt_rtx(tensorrt_rtx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`import tensorrt_rtx` finds NVIDIA's; its folder."""
    monkeypatch.syspath_prepend(str(tensorrt_rtx_folder))
    return tensorrt_rtx_folder
