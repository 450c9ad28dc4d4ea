"""The little of CUDA that running an engine needs: memory, pinned memory, copies, streams, events, graphs, properties.

One seam over two bindings, chosen by what is installed: cuda-bindings (the runtime API on the primary context; its
module moved from `cuda.cudart` to `cuda.bindings.runtime` in 12.8), else pycuda, also where the bindings do not fit the
driver (those of CUDA 13 on JetPack 6). `EDGECNN_CUDA=pycuda` or `=cuda-bindings` forces one. Every failed call raises
`DeviceError` with CUDA's name of the error and of the call.
Addresses are plain integers; streams, events and graphs are opaque handles, and `handle()` is a stream's integer.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgecnn.artifact.sidecar import tool_versions
from edgecnn.errors import BackendError, DeviceError
from edgecnn.machine.jetson import available_memory_bytes, board_name
from edgecnn.machine.packages import missing_package

Bytes = npt.NDArray[np.uint8]

HINTS = {
    "OUT_OF_MEMORY": "free device memory (nvidia-smi or tegrastats shows who holds it), or use a smaller batch",
    "NO_DRIVER": "this step needs an NVIDIA GPU and its driver; `edgecnn doctor` shows what is here",
    "": "a CUDA error is sticky: start the command again; `dmesg` may tell more of a failing device",
}
KINDS = {
    "cudaErrorMemoryAllocation": "OUT_OF_MEMORY",
    "cudaErrorNoDevice": "NO_DRIVER",
    "cudaErrorInitializationError": "NO_DRIVER",
    "cudaErrorStubLibrary": "NO_DRIVER",
    "cudaErrorSystemDriverMismatch": "NO_DRIVER",
}
DRIVERS = {"cuda.bindings.runtime": "cuda.bindings.driver", "cuda.cudart": "cuda.cuda"}  # of each runtime API


@dataclass(frozen=True)
class GpuProperties:
    """One GPU. `integrated` GPUs (Jetson) share the host's memory; `cuda` is the driver's newest CUDA."""

    name: str
    compute_capability: str
    memory_bytes: int
    multiprocessors: int
    integrated: bool
    cuda: str
    pci_bus_id: str


class Cuda(Protocol):
    """What both bindings offer, on device 0 (CUDA_VISIBLE_DEVICES chooses)."""

    name: str
    captures: bool  # whether CUDA graphs are to be had
    note: str  # why it is not the other binding, "" where nothing is to be said

    def malloc(self, nbytes: int) -> int: ...
    def free(self, address: int) -> None: ...
    def malloc_pinned(self, nbytes: int) -> tuple[int, Bytes]: ...
    def free_pinned(self, address: int) -> None: ...
    def to_device(self, device: int, host: Bytes, nbytes: int, stream: Any) -> None: ...
    def to_host(self, host: Bytes, device: int, nbytes: int, stream: Any) -> None: ...
    def create_stream(self) -> Any: ...
    def destroy_stream(self, stream: Any) -> None: ...
    def synchronize_stream(self, stream: Any) -> None: ...
    def handle(self, stream: Any) -> int: ...
    def create_event(self) -> Any: ...
    def destroy_event(self, event: Any) -> None: ...
    def record(self, event: Any, stream: Any) -> None: ...
    def wait_for(self, event: Any, stream: Any) -> None: ...
    def synchronize_event(self, event: Any) -> None: ...
    def elapsed_ms(self, start: Any, end: Any) -> float: ...
    def begin_capture(self, stream: Any) -> None: ...
    def end_capture(self, stream: Any) -> Any: ...
    def launch_graph(self, graph: Any, stream: Any) -> None: ...
    def destroy_graph(self, graph: Any) -> None: ...
    def launch(self, source: bytes, name: str, address: int, stream: Any) -> None: ...
    def clear_error(self) -> None: ...
    def memory_info(self) -> tuple[int, int]: ...
    def properties(self) -> GpuProperties: ...


def load_cuda() -> Cuda:
    """The binding that is installed; raises `MissingPackageError` when none is, `DeviceError` without a device."""
    return _load(os.environ.get("EDGECNN_CUDA", ""))


@functools.cache
def _load(wanted: str) -> Cuda:
    if wanted not in ("", "cuda-bindings", "pycuda"):
        raise BackendError(f"EDGECNN_CUDA={wanted}: no such binding", "cuda-bindings or pycuda, or leave it unset")
    refused = None
    if wanted != "pycuda":
        try:
            if (runtime := _runtime_module()) is not None:
                return CudaBindings(runtime)
        except DeviceError as exc:
            refused = exc
    if wanted != "cuda-bindings":
        from edgecnn.backends._pycuda import PyCuda

        try:
            with warnings.catch_warnings():  # pycuda warns before it raises, where libcuda is absent
                warnings.simplefilter("ignore")
                driver = importlib.import_module("pycuda.driver")
            return PyCuda(driver, refused.message if refused else "")
        except ModuleNotFoundError:
            pass
        except ImportError as exc:
            refused = refused or DeviceError(f"pycuda cannot load CUDA: {exc}", HINTS["NO_DRIVER"])
        except DeviceError as exc:
            refused = refused or exc
    if refused is not None:
        raise refused
    package = wanted or "cuda-bindings"
    raise missing_package(package, "running on an NVIDIA GPU", "pycuda" if package == "pycuda" else "jetson")


def free_memory_bytes() -> int:
    """Of the GPU; where it shares the host's, what Linux has left. The CUDA context is there afterwards."""
    cuda = load_cuda()
    free = cuda.memory_info()[0]
    return available_memory_bytes() or free if cuda.properties().integrated else free


def _runtime_module() -> Any:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as exc:
            raise DeviceError(f"{name} is installed but cannot be loaded: {exc}", HINTS["NO_DRIVER"]) from exc
    return None


def _too_new(runtime: Any, failed: str) -> DeviceError:
    """The error for bindings of a newer CUDA than the driver's (35); without a driver, for its absence."""
    error, number = runtime.cudaDriverGetVersion()
    if int(error) or not number:
        return DeviceError(f"{failed}; there is no driver", HINTS["NO_DRIVER"])
    driver, major = cuda_version(int(number)), int(number) // 1000
    found = tool_versions("cuda-bindings", "cuda-python")
    here = " and ".join(f"{package} {version}" for package, version in found.items()) or "the binding"
    if major < 12:
        hint = "install a newer driver: CUDA 12 is the oldest that is supported"
    elif board_name():
        extra, brings = ("jetson", "cuda-python") if major == 12 else ("jetson7", "cuda-bindings")
        others = " ".join(package for package in found if package != brings)  # they have files of the same names
        first = f"pip uninstall {others}; " if others else ""
        hint = f"{first}pip install 'edgecnn[{extra}]', or 'edgecnn[pycuda]', which is compiled on the device"
    else:
        hint = f"pip install 'cuda-bindings=={major}.*', or install a newer driver"
    return DeviceError(f"{failed}: the driver is for CUDA {driver}, {here} for a newer one", hint)


class CudaBindings:
    """cuda-bindings: every call answers (error, values...)."""

    name = "cuda-bindings"
    captures = True
    note = ""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._call("cudaSetDevice", 0)

    def malloc(self, nbytes: int) -> int:
        """Device memory; its address."""
        return int(self._call("cudaMalloc", nbytes))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def malloc_pinned(self, nbytes: int) -> tuple[int, Bytes]:
        """Page-locked host memory: its address and a view of its bytes, valid until `free_pinned`."""
        address = int(self._call("cudaHostAlloc", nbytes, self._runtime.cudaHostAllocDefault))
        return address, np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        self._call("cudaFreeHost", address)

    def to_device(self, device: int, host: Bytes, nbytes: int, stream: Any) -> None:
        """Queue a copy from pinned memory to the device."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host.ctypes.data, nbytes, kind, stream)

    def to_host(self, host: Bytes, device: int, nbytes: int, stream: Any) -> None:
        """Queue a copy from the device to pinned memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host.ctypes.data, device, nbytes, kind, stream)

    def create_stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Any) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def synchronize_stream(self, stream: Any) -> None:
        """Wait until all that was queued is done; raises what failed meanwhile."""
        self._call("cudaStreamSynchronize", stream)

    def handle(self, stream: Any) -> int:
        """The stream as TensorRT takes it."""
        return int(stream)

    def create_event(self) -> Any:
        """An event that keeps its time."""
        return self._call("cudaEventCreateWithFlags", self._runtime.cudaEventDefault)

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", event)

    def record(self, event: Any, stream: Any) -> None:
        """Queue the event."""
        self._call("cudaEventRecord", event, stream)

    def wait_for(self, event: Any, stream: Any) -> None:
        """Let what is queued on the stream from now on wait for the event."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: Any) -> None:
        """Wait until the event has passed."""
        self._call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds of device time between two events that have passed."""
        return float(self._call("cudaEventElapsedTime", start, end))

    def begin_capture(self, stream: Any) -> None:
        """Record what is queued from now on instead of running it."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """The recorded work as a graph that can be launched; raises `DeviceError` when it could not be recorded."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch_graph(self, graph: Any, stream: Any) -> None:
        """Queue a recorded graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Give a graph back."""
        self._call("cudaGraphExecDestroy", graph)

    def launch(self, source: bytes, name: str, address: int, stream: Any) -> None:
        """Queue one thread of the kernel `name` of PTX `source`, with an address as its only argument."""
        driver = importlib.import_module(DRIVERS[self._runtime.__name__])
        text = ctypes.create_string_buffer(source)  # ends in the zero that PTX needs
        module = self._drive(driver, "cuModuleLoadData", ctypes.addressof(text))
        try:
            function = self._drive(driver, "cuModuleGetFunction", module, name.encode())
            one = (1, 1, 1)
            arguments = ((address,), (ctypes.c_void_p,))
            self._drive(driver, "cuLaunchKernel", function, *one, *one, 0, int(stream), arguments, 0)
            self.synchronize_stream(stream)  # its code goes with the module
        finally:
            self._drive(driver, "cuModuleUnload", module)

    def clear_error(self) -> None:
        """Forget the error of a call that failed and was coped with: kept, it is the next caller's who asks for the
        last one (TensorRT after a launch)."""
        self._runtime.cudaGetLastError()

    def memory_info(self) -> tuple[int, int]:
        """(free, total) device memory in bytes."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def properties(self) -> GpuProperties:
        """What the device is."""
        p = self._call("cudaGetDeviceProperties", 0)
        version = int(self._call("cudaDriverGetVersion"))
        name = p.name.decode() if isinstance(p.name, bytes) else str(p.name)
        return GpuProperties(
            name.rstrip("\0"),
            f"{p.major}.{p.minor}",
            int(p.totalGlobalMem),
            int(p.multiProcessorCount),
            bool(p.integrated),
            cuda_version(version),
            f"{p.pciDomainID:04x}:{p.pciBusID:02x}:{p.pciDeviceID:02x}.0",
        )

    def _drive(self, driver: Any, name: str, *arguments: Any) -> Any:
        try:
            error, *values = getattr(driver, name)(*arguments)
        except RuntimeError as exc:  # libcuda cannot be loaded
            raise DeviceError(f"{name} failed: {exc}", HINTS["NO_DRIVER"]) from exc
        if int(error) != 0:
            title = _text(driver.cuGetErrorName(error)[1])
            raise DeviceError(f"{name} failed: {title} ({int(error)})", HINTS[""])
        return values[0] if values else None

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            error, *values = getattr(self._runtime, name)(*arguments)
        except RuntimeError as exc:  # cuda-python before 12.8, where libcuda cannot be loaded
            raise DeviceError(f"{name} failed: {exc}", HINTS["NO_DRIVER"]) from exc
        if int(error) != 0:
            title = _text(self._runtime.cudaGetErrorName(error)[1])
            meaning = _text(self._runtime.cudaGetErrorString(error)[1])
            failed = f"{name} failed: {title} ({int(error)})"
            if title == "cudaErrorInsufficientDriver":
                raise _too_new(self._runtime, failed)
            raise DeviceError(f"{failed}: {meaning}", HINTS[KINDS.get(title, "")])
        return values[0] if len(values) == 1 else tuple(values)


def cuda_version(number: int) -> str:
    """The CUDA of a version number: "12.6" of 12060."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
