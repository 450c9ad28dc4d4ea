"""Whether the GPU runs anything, and whether TensorRT's builder has its kernels: what `edgecnn doctor` tries."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from edgecnn.backends import _cuda
from edgecnn.backends._cuda import CudaBindings
from edgecnn.backends._kernel import launch_one_kernel
from edgecnn.backends._pycuda import PyCuda
from edgecnn.backends.trt.backend import TrtBackend
from edgecnn.backends.trt.flavor import RTX, TENSORRT
from edgecnn.backends.trt.library import builder_resource
from edgecnn.errors import BackendError, DeviceError
from tests.fakes.fake_cuda import FakeDevice, driver_module, pycuda_module, runtime_module

pytestmark = pytest.mark.onnx


@pytest.fixture(params=["cuda-bindings", "cuda-python", "pycuda"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> Any:
    """The seam by each binding; cuda-python before 12.8 has other names for its modules."""
    if request.param == "pycuda":
        return PyCuda(pycuda_module(device))
    runtime = runtime_module(device)
    if request.param == "cuda-python":
        runtime.__name__ = "cuda.cudart"
    monkeypatch.setitem(sys.modules, _cuda.DRIVERS[runtime.__name__], driver_module(device))
    return CudaBindings(runtime)


def test_one_kernel_is_run_and_nothing_is_kept(cuda: Any, device: FakeDevice) -> None:
    launch_one_kernel(cuda)
    assert not any(device.live().values())


def test_a_gpu_that_takes_a_kernel_and_runs_none_is_told(cuda: Any, device: FakeDevice) -> None:
    device.runs_kernels = False
    with pytest.raises(DeviceError, match="was to write 42, and 0 was read"):
        launch_one_kernel(cuda)
    assert not any(device.live().values())


def test_a_gpu_that_is_too_old_for_the_kernel(cuda: Any, device: FakeDevice) -> None:
    device.capability = (7, 2)
    with pytest.raises(DeviceError, match="cuModuleLoadData failed: (CUDA_ERROR_NO_BINARY_FOR_GPU|error 209)"):
        launch_one_kernel(cuda)
    assert not any(device.live().values())


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """/proc/self/maps of a process with TensorRT in `tmp_path/lib`."""
    (tmp_path / "lib").mkdir()
    found = tmp_path / "maps"
    found.write_text(f"7f00-7f01 r-xp 0 08:01 42 {tmp_path}/lib/libnvinfer.so.10.16.2\n")
    return found


@pytest.mark.parametrize(
    ("here", "capability", "found"),
    [
        (["libnvinfer_builder_resource.so.10.7.0"], "8.7", "libnvinfer_builder_resource"),
        (["libnvinfer_builder_resource_sm89.so.10.16.2"], "8.9", "libnvinfer_builder_resource_sm89"),
        (["libnvinfer_builder_resource_sm120.so.10.16.2"], "12.0", "libnvinfer_builder_resource_sm120"),
        (["libnvinfer_builder_resource_sm86.so.10.16.2"], "8.7", "libnvinfer_builder_resource_sm86"),  # an Orin
    ],
)
def test_the_builder_s_resource_of_a_gpu_is_found(maps: Path, here: list[str], capability: str, found: str) -> None:
    for name in here:
        (maps.parent / "lib" / name).touch()
    assert builder_resource(capability, maps) == found


def test_one_that_is_missing_is_named(maps: Path) -> None:
    (maps.parent / "lib" / "libnvinfer_builder_resource_ptx.so.10.16.2").touch()
    with pytest.raises(BackendError, match=r"lacks libnvinfer_builder_resource_sm86.*here is .*_ptx"):
        builder_resource("8.6", maps)
    maps.write_text("7f00-7f01 r-xp 0 08:01 42 /usr/lib/libc.so.6\n")
    assert builder_resource("8.6", maps) == "", "TensorRT is loaded from nowhere"


def test_why_tensorrt_does_not_work_here(one_trt: Any, device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrtBackend(TENSORRT).why_not() == ""
    device.runs_kernels = False
    assert "the GPU did not run a kernel" in TrtBackend(TENSORRT).why_not()
    rtx: Any = types.ModuleType("tensorrt_rtx")
    rtx.__version__ = "1.7.1.116"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx)
    assert TrtBackend(RTX).why_not().startswith("plans are built here, and not run: the GPU did not run a kernel")
    device.runs_kernels, device.capability = True, (8, 9)
    assert TrtBackend(RTX).why_not() == ""
    device.capability = (9, 0)
    reason = "plans are built here, and not run: it takes no GPU of compute capability 9.0"
    assert TrtBackend(RTX).why_not() == reason
    assert TrtBackend(TENSORRT).why_not() == ""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "needs the package 'tensorrt'" in TrtBackend(TENSORRT).why_not()
