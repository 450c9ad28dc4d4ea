"""The little of CUDA that running an engine needs: memory, pinned memory, copies, streams, events, graphs, properties.

One seam over two bindings, chosen by what is installed: cuda-bindings (the runtime API on the primary context; its
module moved from `cuda.cudart` to `cuda.bindings.runtime` in 12.8), else pycuda. `EDGECNN_CUDA=pycuda` or
`=cuda-bindings` forces one. Every failed call raises `DeviceError` with CUDA's name of the error and of the call.
Addresses are plain integers; streams, events and graphs are opaque handles, and `handle()` is a stream's integer.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgecnn.errors import BackendError, DeviceError
from edgecnn.machine.packages import missing_package

Bytes = npt.NDArray[np.uint8]

HINTS = {
    "OUT_OF_MEMORY": "free device memory (nvidia-smi or tegrastats shows who holds it), or use a smaller batch",
    "NO_DRIVER": "this step needs an NVIDIA GPU and its driver; `edgecnn doctor` shows what is here",
    "": "a CUDA error is sticky: start the command again; `dmesg` may tell more of a failing device",
}
KINDS = {
    "cudaErrorMemoryAllocation": "OUT_OF_MEMORY",
    "cudaErrorInsufficientDriver": "NO_DRIVER",
    "cudaErrorNoDevice": "NO_DRIVER",
    "cudaErrorInitializationError": "NO_DRIVER",
    "cudaErrorStubLibrary": "NO_DRIVER",
    "cudaErrorSystemDriverMismatch": "NO_DRIVER",
}


@dataclass(frozen=True)
class GpuProperties:
    """One GPU. `integrated` GPUs (Jetson) share the host's memory; `cuda` is the driver's newest CUDA."""

    name: str
    compute_capability: str
    memory_bytes: int
    multiprocessors: int
    integrated: bool
    cuda: str


class Cuda(Protocol):
    """What both bindings offer, on device 0 (CUDA_VISIBLE_DEVICES chooses)."""

    name: str
    captures: bool  # whether CUDA graphs are to be had

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
    def elapsed_ms(self, start: Any, end: Any) -> float: ...
    def begin_capture(self, stream: Any) -> None: ...
    def end_capture(self, stream: Any) -> Any: ...
    def launch_graph(self, graph: Any, stream: Any) -> None: ...
    def destroy_graph(self, graph: Any) -> None: ...
    def memory_info(self) -> tuple[int, int]: ...
    def properties(self) -> GpuProperties: ...


def load_cuda() -> Cuda:
    """The binding that is installed; raises `MissingPackageError` when none is, `DeviceError` without a device."""
    return _load(os.environ.get("EDGECNN_CUDA", ""))


@functools.cache
def _load(wanted: str) -> Cuda:
    if wanted not in ("", "cuda-bindings", "pycuda"):
        raise BackendError(f"EDGECNN_CUDA={wanted}: no such binding", "cuda-bindings or pycuda, or leave it unset")
    if wanted != "pycuda" and (runtime := _runtime_module()) is not None:
        return CudaBindings(runtime)
    if wanted != "cuda-bindings":
        try:
            return PyCuda(importlib.import_module("pycuda.driver"))
        except ModuleNotFoundError:
            pass
        except ImportError as exc:  # libcuda itself is absent
            raise DeviceError(f"pycuda cannot load CUDA: {exc}", HINTS["NO_DRIVER"]) from exc
    raise missing_package(wanted or "cuda-bindings", "running on an NVIDIA GPU", (wanted and "pycuda") or "jetson")


def _runtime_module() -> Any:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as exc:
            raise DeviceError(f"{name} is installed but cannot be loaded: {exc}", HINTS["NO_DRIVER"]) from exc
    return None


class CudaBindings:
    """cuda-bindings: every call answers (error, values...)."""

    name = "cuda-bindings"
    captures = True

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
            _cuda_version(version),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error) != 0:
            title = _text(self._runtime.cudaGetErrorName(error)[1])
            meaning = _text(self._runtime.cudaGetErrorString(error)[1])
            raise DeviceError(f"{name} failed: {title} ({int(error)}): {meaning}", HINTS[KINDS.get(title, "")])
        return values[0] if len(values) == 1 else tuple(values)


class PyCuda:
    """pycuda: the driver API on the device's primary context; it frees by object, so the objects are kept here."""

    name = "pycuda"
    captures = False

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._held: dict[int, Any] = {}
        self._check(driver.init)
        self._device = self._check(driver.Device, 0)
        self._context = self._check(self._device.retain_primary_context)
        self._check(self._context.push)
        atexit.register(self._context.pop)  # pycuda ends the process with an error when it finds the context in use

    def malloc(self, nbytes: int) -> int:
        """Device memory; its address."""
        return self._hold(self._check(self._driver.mem_alloc, nbytes))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._check(self._held.pop(address).free)

    def malloc_pinned(self, nbytes: int) -> tuple[int, Bytes]:
        """Page-locked host memory: its address and a view of its bytes, valid until `free_pinned`."""
        array: Bytes = self._check(self._driver.pagelocked_empty, nbytes, np.uint8)
        self._held[array.ctypes.data] = array
        return array.ctypes.data, array

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        base: Any = self._held.pop(address).base
        self._check(base.free)

    def to_device(self, device: int, host: Bytes, nbytes: int, stream: Any) -> None:
        """Queue a copy from pinned memory to the device."""
        self._check(self._driver.memcpy_htod_async, device, host[:nbytes], stream)

    def to_host(self, host: Bytes, device: int, nbytes: int, stream: Any) -> None:
        """Queue a copy from the device to pinned memory."""
        self._check(self._driver.memcpy_dtoh_async, host[:nbytes], device, stream)

    def create_stream(self) -> Any:
        """A stream that does not wait for the default one (CU_STREAM_NON_BLOCKING)."""
        return self._check(self._driver.Stream, 1)

    def destroy_stream(self, stream: Any) -> None:
        """pycuda destroys a stream with its object."""

    def synchronize_stream(self, stream: Any) -> None:
        """Wait until all that was queued is done; raises what failed meanwhile."""
        self._check(stream.synchronize)

    def handle(self, stream: Any) -> int:
        """The stream as TensorRT takes it."""
        return int(stream.handle)

    def create_event(self) -> Any:
        """An event that keeps its time."""
        return self._check(self._driver.Event)

    def destroy_event(self, event: Any) -> None:
        """pycuda destroys an event with its object."""

    def record(self, event: Any, stream: Any) -> None:
        """Queue the event."""
        self._check(event.record, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds of device time between two events that have passed."""
        return float(self._check(end.time_since, start))

    def begin_capture(self, stream: Any) -> None:
        """Not to be had."""
        raise DeviceError("pycuda cannot record CUDA graphs", "install cuda-bindings to have them")

    def end_capture(self, stream: Any) -> Any:
        """Not to be had."""
        return self.begin_capture(stream)

    def launch_graph(self, graph: Any, stream: Any) -> None:
        """Not to be had."""
        self.begin_capture(stream)

    def destroy_graph(self, graph: Any) -> None:
        """There is none."""

    def memory_info(self) -> tuple[int, int]:
        """(free, total) device memory in bytes."""
        free, total = self._check(self._driver.mem_get_info)
        return int(free), int(total)

    def properties(self) -> GpuProperties:
        """What the device is."""
        major, minor = self._check(self._device.compute_capability)
        attribute = self._driver.device_attribute
        return GpuProperties(
            str(self._check(self._device.name)),
            f"{major}.{minor}",
            int(self._check(self._device.total_memory)),
            int(self._check(self._device.get_attribute, attribute.MULTIPROCESSOR_COUNT)),
            bool(self._check(self._device.get_attribute, attribute.INTEGRATED)),
            _cuda_version(int(self._check(self._driver.get_driver_version))),
        )

    def _hold(self, allocation: Any) -> int:
        address = int(allocation)
        self._held[address] = allocation
        return address

    def _check(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._driver.Error as exc:  # its text reads "cuMemAlloc failed: out of memory"
            text = str(exc)
            memory = isinstance(exc, self._driver.MemoryError) or "out of memory" in text
            absent = any(word in text for word in ("no CUDA-capable device", "driver", "not initialized"))
            kind = "OUT_OF_MEMORY" if memory else "NO_DRIVER" if absent else ""
            raise DeviceError(f"{type(exc).__name__}: {text}", HINTS[kind]) from exc


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
