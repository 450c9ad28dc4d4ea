# ruff: noqa: N801, N802, N815 - CUDA's names
"""A CUDA device that counts: real memory on the host, streams that run nothing until they are waited for, events with
a clock of their own, graphs that replay; spoken to as `cuda.bindings.runtime` or as `pycuda.driver`.

Queued work runs at a synchronisation, so that a result read too early is wrong here as it would be there. Its times are
a simulation: copies in, copies out and compute each have an engine of their own, which serves one piece of work at a
time, not before the host queued it, not before its stream and the events that it waits for. Two pieces of work that
overlap in time and touch the same memory, one of them writing, are a race.
"""

from __future__ import annotations

import ctypes
import enum
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

COPY_MS, COMPUTE_MS = 0.125, 1.0
KEPT_ACCESSES = 64
ALIGNMENT = 256

Access = tuple[int, int, bool]  # address, bytes, whether it is written


class FakeError(Exception):
    """A CUDA error code on its way to the caller."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Work:
    """What is queued: on which engine it runs ("" for events), for how long, and which memory it touches."""

    run: Callable[[], None]
    engine: str = ""
    ms: float = 0.0
    touches: tuple[Access, ...] = ()
    event: int = 0
    waits: bool = False


@dataclass
class Stream:
    """Work that waits (with its number in the order of all, and when the host queued it), or is being recorded."""

    handle: int
    queue: list[tuple[int, float, Work]] = field(default_factory=list)
    recorded: list[Work] | None = None
    broken: bool = False  # something failed while recording
    end_ms: float = 0.0


@dataclass
class FakeDevice:
    """The state: what is allocated, what is queued, which calls are to fail (name -> error code)."""

    name: str = "NVIDIA L4"
    capability: tuple[int, int] = (8, 9)
    total: int = 24_000_000_000
    integrated: bool = False
    driver_cuda: int = 12080
    memory: dict[int, Any] = field(default_factory=dict)
    pinned: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    events: dict[int, float | None] = field(default_factory=dict)
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    executables: dict[int, list[Work]] = field(default_factory=dict)
    fail: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=lambda: {"in": COPY_MS, "compute": COMPUTE_MS, "out": COPY_MS})
    enqueue_ms: float = 0.0  # of the host, for an ordinary enqueue
    launch_ms: float = 0.0  # and for a graph
    now_ms: float = 0.0  # the host's clock
    computes: int = 1  # pieces of compute that run at the same time
    busy: list[tuple[str, int, float, float]] = field(default_factory=list)  # engine, stream, start, end
    races: list[str] = field(default_factory=list)
    last_error: int = 0  # of a failed call, until somebody asks for it
    next_handle: int = 1000
    _number: int = 0
    _pending: dict[int, int] = field(default_factory=dict)  # event -> the record that is to come
    _free: dict[str, list[float]] = field(default_factory=dict)
    _accesses: list[tuple[float, float, Access, str]] = field(default_factory=list)
    modules: dict[int, str] = field(default_factory=dict)
    runs_kernels: bool = True  # False: launches are taken, and nothing is run

    def live(self) -> dict[str, int]:
        """How many of each resource are held."""
        kinds = ("memory", "pinned", "streams", "events", "graphs", "executables", "modules")
        return {kind: len(getattr(self, kind)) for kind in kinds}

    def handle(self) -> int:
        self.next_handle += 1
        return self.next_handle

    def called(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if self.fail.get(name):
            raise FakeError(self.fail[name])

    def allocate(self, kind: str, nbytes: int) -> int:
        if nbytes <= 0:
            raise FakeError(1)
        held = (ctypes.c_uint8 * (nbytes + ALIGNMENT))()
        block = (ctypes.c_uint8 * nbytes).from_buffer(held, -ctypes.addressof(held) % ALIGNMENT)
        ctypes.memset(block, 0xA5, nbytes)
        address = ctypes.addressof(block)
        getattr(self, kind)[address] = block
        return address

    def release(self, kind: str, key: int) -> None:
        if key not in getattr(self, kind):
            raise FakeError(1)
        del getattr(self, kind)[key]

    def check_range(self, address: int, nbytes: int, *kinds: str) -> None:
        for kind in kinds:
            for start, block in getattr(self, kind).items():
                if start <= address and address + nbytes <= start + len(block):
                    return
        raise FakeError(700)  # cudaErrorIllegalAddress

    def stream(self, handle: Any) -> Stream:
        if int(handle) not in self.streams:
            raise FakeError(400)  # cudaErrorInvalidResourceHandle
        return self.streams[int(handle)]

    def enqueue(self, handle: Any, work: Work) -> None:
        stream = self.stream(handle)
        if stream.recorded is not None:
            stream.recorded.append(work)
            return
        self._number += 1
        stream.queue.append((self._number, self.now_ms, work))
        if work.event and not work.waits:
            self._pending[work.event] = self._number

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self.check_range(target, nbytes, "memory", "pinned")
        self.check_range(source, nbytes, "memory", "pinned")
        engine = "in" if any(a <= source < a + len(block) for a, block in self.pinned.items()) else "out"
        touches = ((source, nbytes, False), (target, nbytes, True))
        self.enqueue(
            stream, Work(lambda: void(ctypes.memmove(target, source, nbytes)), engine, self.ms[engine], touches)
        )

    def record(self, event: int, stream: Any) -> None:
        if event not in self.events:
            raise FakeError(400)
        self.enqueue(stream, Work(lambda: None, event=event))

    def wait_event(self, stream: Any, event: int) -> None:
        """What is queued on the stream from now on waits for the last record of the event; none is waited for where it
        was never recorded."""
        if event not in self.events:
            raise FakeError(400)
        self.enqueue(stream, Work(lambda: None, event=event, waits=True))

    def launch(self, graph: int, stream: Any) -> None:
        self.now_ms += self.launch_ms
        for work in self.executables[graph]:
            self.enqueue(stream, work)

    def load_module(self, source: str) -> int:
        """PTX that the driver would compile; an image that is none, or for a newer GPU, is refused."""
        target = re.search(r"^\.target sm_(\d)(\d)$", source, re.MULTILINE)
        if target is None or not source.lstrip().startswith(".version"):
            raise FakeError(218)  # CUDA_ERROR_INVALID_PTX
        if (int(target[1]), int(target[2])) > self.capability:
            raise FakeError(209)  # CUDA_ERROR_NO_BINARY_FOR_GPU
        handle = self.handle()
        self.modules[handle] = source
        return handle

    def launch_kernel(self, module: int, name: str, address: int, stream: Any) -> None:
        """A kernel of one argument that stores a constant there."""
        source = self.modules[module]
        if f".entry {name}(" not in source:
            raise FakeError(500)  # CUDA_ERROR_NOT_FOUND
        number = re.search(r"mov\.u32 \S+, (\d+);", source)
        assert number is not None
        self.check_range(address, 4, "memory")

        def work() -> None:
            if self.runs_kernels:
                ctypes.memmove(address, int(number[1]).to_bytes(4, "little"), 4)

        self.enqueue(stream, Work(work))

    def synchronize(self, handle: Any) -> None:
        stream = self.stream(handle)
        if stream.recorded is not None:
            stream.broken = True
            raise FakeError(900)  # cudaErrorStreamCaptureUnsupported
        if stream.queue:
            self._run_to(stream.queue[-1][0])
        self.now_ms = max(self.now_ms, stream.end_ms)

    def synchronize_event(self, event: int) -> None:
        if event not in self.events:
            raise FakeError(400)
        if event in self._pending:
            self._run_to(self._pending[event])
        self.now_ms = max(self.now_ms, self.events[event] or 0.0)

    def elapsed(self, start: int, end: int) -> float:
        a, b = self.events[start], self.events[end]
        if a is None or b is None or {start, end} & self._pending.keys() or max(a, b) > self.now_ms:
            raise FakeError(600)  # cudaErrorNotReady
        return b - a

    def _run_to(self, number: int) -> None:
        """Run what was queued up to `number`, in the order in which the host queued it."""
        ready = [(n, at, s, w) for s in self.streams.values() for n, at, w in s.queue if n <= number]
        for stream in self.streams.values():
            stream.queue = [entry for entry in stream.queue if entry[0] > number]
        for n, queued_ms, stream, work in sorted(ready, key=lambda entry: entry[0]):
            self._run(n, queued_ms, stream, work)

    def _run(self, number: int, queued_ms: float, stream: Stream, work: Work) -> None:
        start = max(stream.end_ms, queued_ms)
        if work.waits:
            stream.end_ms = max(stream.end_ms, self.events[work.event] or 0.0)
            return
        if work.engine:
            units = self._free.setdefault(work.engine, [0.0] * (self.computes if work.engine == "compute" else 1))
            unit = units.index(min(units))
            start = max(start, units[unit])
            units[unit] = start + work.ms
            self.busy.append((work.engine, stream.handle, start, start + work.ms))
            self._touch(start, start + work.ms, work)
        work.run()
        stream.end_ms = start + work.ms
        if work.event:
            self.events[work.event] = stream.end_ms
            if self._pending.get(work.event) == number:
                del self._pending[work.event]

    def _touch(self, start: float, end: float, work: Work) -> None:
        for address, nbytes, written in work.touches:
            for other_start, other_end, (other, size, other_written), engine in self._accesses:
                if (
                    start < other_end
                    and other_start < end
                    and address < other + size
                    and other < address + nbytes
                    and (written or other_written)
                ):
                    self.races.append(f"{work.engine} at {start:.3f} ms and {engine} at {other_start:.3f} ms")
        self._accesses += [(start, end, access, work.engine) for access in work.touches]
        del self._accesses[:-KEPT_ACCESSES]


def void(value: object) -> None:
    """Nothing, whatever a call answered."""


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


MEANINGS = {2: b"out of memory", 35: b"CUDA driver version is insufficient for CUDA runtime version"}


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class Handle:
    """An opaque handle, as cuda-bindings gives: it is no int, and converts to one."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


def runtime_module(device: FakeDevice) -> types.ModuleType:
    """`cuda.bindings.runtime` of cuda-bindings, as far as it is used: every call answers (error, values...)."""
    module = types.ModuleType("cuda.bindings.runtime")

    def offered(values: int) -> Callable[[Callable[..., Any]], None]:
        def wrap(function: Callable[..., Any]) -> None:
            def call(*arguments: Any) -> tuple[Any, ...]:
                try:
                    device.called(function.__name__)
                    result = function(*arguments)
                except FakeError as stop:
                    device.last_error = stop.code
                    return (cudaError_t(stop.code), *([None] * values))
                if values == 0:
                    return (cudaError_t.cudaSuccess,)
                return (cudaError_t.cudaSuccess, *(result if values > 1 else (result,)))

            call.__wrapped__ = function  # type: ignore[attr-defined]
            setattr(module, function.__name__, call)

        return wrap

    _offer_memory(device, offered)
    _offer_work(device, offered)

    def last_error() -> tuple[cudaError_t]:
        device.called("cudaGetLastError")
        found, device.last_error = device.last_error, 0
        return (cudaError_t(found),)

    def cudaGetLastError() -> tuple[cudaError_t]:
        return last_error()

    cudaGetLastError.__wrapped__ = last_error  # type: ignore[attr-defined]
    module.cudaGetLastError = cudaGetLastError  # type: ignore[attr-defined]

    @offered(1)
    def cudaGetErrorName(error: Any) -> bytes:
        return cudaError_t(int(error)).name.encode()

    @offered(1)
    def cudaGetErrorString(error: Any) -> bytes:
        return MEANINGS.get(int(error), b"unspecified")

    for value in (cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode):
        setattr(module, value.__name__, value)
    module.cudaHostAllocDefault = 0  # type: ignore[attr-defined]
    module.cudaStreamNonBlocking = 1  # type: ignore[attr-defined]
    module.cudaEventDefault = 0  # type: ignore[attr-defined]
    return module


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_INVALID_PTX = 218
    CUDA_ERROR_NOT_FOUND = 500


def driver_module(device: FakeDevice) -> types.ModuleType:
    """`cuda.bindings.driver` of cuda-bindings, as far as it is used."""
    module = types.ModuleType("cuda.bindings.driver")

    def offer(function: Callable[..., Any]) -> None:
        def call(*arguments: Any) -> tuple[Any, ...]:
            try:
                device.called(function.__name__)
                result = function(*arguments)
            except FakeError as stop:
                return (CUresult(stop.code), None)
            return (CUresult.CUDA_SUCCESS,) if result is None else (CUresult.CUDA_SUCCESS, result)

        call.__wrapped__ = function  # type: ignore[attr-defined]
        setattr(module, function.__name__, call)

    @offer
    def cuModuleLoadData(image: int) -> Handle:
        return Handle(device.load_module(ctypes.string_at(image).decode()))

    @offer
    def cuModuleGetFunction(hmod: Handle, name: bytes) -> tuple[int, str]:
        if f".entry {name.decode()}(" not in device.modules[int(hmod)]:
            raise FakeError(500)
        return int(hmod), name.decode()

    @offer
    def cuLaunchKernel(
        f: tuple[int, str],
        grid_x: int,
        grid_y: int,
        grid_z: int,
        block_x: int,
        block_y: int,
        block_z: int,
        shared: int,
        stream: int,
        parameters: Any,
        extra: int,
    ) -> None:
        assert (grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, extra) == (1, 1, 1, 1, 1, 1, 0, 0)
        ((address,), (kind,)) = parameters
        assert kind is ctypes.c_void_p
        device.launch_kernel(*f, address, stream)

    @offer
    def cuModuleUnload(hmod: Handle) -> None:
        device.release("modules", int(hmod))

    @offer
    def cuGetErrorName(error: Any) -> bytes:
        return CUresult(int(error)).name.encode()

    return module


def _offer_memory(device: FakeDevice, offered: Any) -> None:
    @offered(0)
    def cudaSetDevice(index: int) -> None:
        assert index == 0

    @offered(1)
    def cudaMalloc(size: int) -> int:
        return device.allocate("memory", size)

    @offered(0)
    def cudaFree(address: int) -> None:
        device.release("memory", address)

    @offered(1)
    def cudaHostAlloc(size: int, flags: int) -> int:
        assert flags == 0
        return device.allocate("pinned", size)

    @offered(0)
    def cudaFreeHost(address: int) -> None:
        device.release("pinned", address)

    @offered(0)
    def cudaMemcpyAsync(target: int, source: int, count: int, kind: Any, stream: Any) -> None:
        assert isinstance(kind, cudaMemcpyKind)
        device.copy(target, source, count, stream)

    @offered(2)
    def cudaMemGetInfo() -> tuple[int, int]:
        return device.total - sum(map(len, device.memory.values())), device.total

    @offered(1)
    def cudaGetDeviceProperties(index: int) -> Any:
        assert index == 0
        major, minor = device.capability
        return types.SimpleNamespace(
            name=device.name.encode(),
            major=major,
            minor=minor,
            totalGlobalMem=device.total,
            multiProcessorCount=58,
            integrated=int(device.integrated),
            pciDomainID=0,
            pciBusID=0x41,
            pciDeviceID=0,
        )

    @offered(1)
    def cudaDriverGetVersion() -> int:
        return device.driver_cuda


def _offer_work(device: FakeDevice, offered: Any) -> None:
    @offered(1)
    def cudaStreamCreateWithFlags(flags: int) -> Handle:
        assert flags == 1, "the default stream synchronises with everything"
        handle = device.handle()
        device.streams[handle] = Stream(handle)
        return Handle(handle)

    @offered(0)
    def cudaStreamDestroy(stream: Handle) -> None:
        device.release("streams", int(stream))

    @offered(0)
    def cudaStreamSynchronize(stream: Handle) -> None:
        device.synchronize(stream)

    @offered(0)
    def cudaStreamWaitEvent(stream: Handle, event: Handle, flags: int) -> None:
        assert flags == 0
        device.wait_event(stream, int(event))

    @offered(0)
    def cudaEventSynchronize(event: Handle) -> None:
        device.synchronize_event(int(event))

    @offered(1)
    def cudaEventCreateWithFlags(flags: int) -> Handle:
        handle = device.handle()
        device.events[handle] = None
        return Handle(handle)

    @offered(0)
    def cudaEventDestroy(event: Handle) -> None:
        device.release("events", int(event))

    @offered(0)
    def cudaEventRecord(event: Handle, stream: Handle) -> None:
        device.record(int(event), stream)

    @offered(1)
    def cudaEventElapsedTime(start: Handle, end: Handle) -> float:
        return device.elapsed(int(start), int(end))

    @offered(0)
    def cudaStreamBeginCapture(stream: Handle, mode: Any) -> None:
        assert mode is cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert not device.stream(stream).queue, "the stream is to be idle"
        device.stream(stream).recorded = []

    @offered(1)
    def cudaStreamEndCapture(stream: Handle) -> Handle:
        found = device.stream(stream)
        work, found.recorded, broken, found.broken = found.recorded, None, found.broken, False
        assert work is not None
        if broken:
            raise FakeError(901)
        handle = device.handle()
        device.graphs[handle] = work
        return Handle(handle)

    @offered(1)
    def cudaGraphInstantiate(graph: Handle, flags: int) -> Handle:
        assert flags == 0
        handle = device.handle()
        device.executables[handle] = device.graphs[int(graph)]
        return Handle(handle)

    @offered(0)
    def cudaGraphDestroy(graph: Handle) -> None:
        device.release("graphs", int(graph))

    @offered(0)
    def cudaGraphLaunch(graph: Handle, stream: Handle) -> None:
        device.launch(int(graph), stream)

    @offered(0)
    def cudaGraphExecDestroy(graph: Handle) -> None:
        device.release("executables", int(graph))


def pycuda_module(device: FakeDevice) -> types.ModuleType:
    """`pycuda.driver`, as far as it is used: objects that free themselves, exceptions instead of codes."""
    module = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError(Error):
        pass

    def guarded(name: str, work: Callable[[], Any]) -> Any:
        try:
            device.called(name)
            return work()
        except FakeError as stop:
            raise (MemoryError if stop.code == 2 else LogicError)(
                f"{name} failed: {'out of memory' if stop.code == 2 else 'error ' + str(stop.code)}"
            ) from None

    class Allocation:
        def __init__(self, kind: str, nbytes: int) -> None:
            self.kind, self.address = kind, device.allocate(kind, nbytes)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            guarded("cuMemFree", lambda: device.release(self.kind, self.address))

    class Stream_:
        def __init__(self, flags: int = 0) -> None:
            assert flags == 1
            self.handle = device.handle()
            device.streams[self.handle] = Stream(self.handle)

        def synchronize(self) -> None:
            guarded("cuStreamSynchronize", lambda: device.synchronize(self.handle))

        def wait_for_event(self, event: Event) -> None:
            guarded("cuStreamWaitEvent", lambda: device.wait_event(self.handle, event.handle))

        def __del__(self) -> None:
            device.streams.pop(self.handle, None)

    class Event:
        def __init__(self) -> None:
            self.handle = device.handle()
            device.events[self.handle] = None

        def record(self, stream: Stream_) -> None:
            guarded("cuEventRecord", lambda: device.record(self.handle, stream.handle))

        def synchronize(self) -> None:
            guarded("cuEventSynchronize", lambda: device.synchronize_event(self.handle))

        def time_since(self, start: Event) -> float:
            return guarded("cuEventElapsedTime", lambda: device.elapsed(start.handle, self.handle))

        def __del__(self) -> None:
            device.events.pop(self.handle, None)

    class Context:
        def push(self) -> None:
            pass

        @staticmethod
        def pop() -> None:
            pass

    class Device:
        def __init__(self, index: int) -> None:
            assert index == 0

        def retain_primary_context(self) -> Context:
            return Context()

        def compute_capability(self) -> tuple[int, int]:
            return device.capability

        def name(self) -> str:
            return device.name

        def pci_bus_id(self) -> str:
            return "0000:41:00.0"

        def total_memory(self) -> int:
            return device.total

        def get_attribute(self, attribute: str) -> int:
            return {"MULTIPROCESSOR_COUNT": 58, "INTEGRATED": int(device.integrated)}[attribute]

    class PinnedBase:
        def __init__(self, nbytes: int) -> None:
            self._allocation = Allocation("pinned", nbytes)
            block = device.pinned[self._allocation.address]
            self.__array_interface__ = np.ctypeslib.as_array(block).__array_interface__

        def free(self) -> None:
            self._allocation.free()

    def pagelocked_empty(nbytes: int, dtype: Any) -> Any:
        assert dtype is np.uint8
        return guarded("cuMemHostAlloc", lambda: np.asarray(PinnedBase(nbytes)))

    def copy(target: int, source: int, nbytes: int, stream: Any) -> None:
        guarded("cuMemcpyAsync", lambda: device.copy(target, source, nbytes, stream.handle))

    class Function:
        def __init__(self, module: int, name: str) -> None:
            self._module, self._name = module, name

        def __call__(self, address: Any, *, block: Any, grid: Any, stream: Any) -> None:
            assert (block, grid, type(address)) == ((1, 1, 1), (1, 1), np.uint64)
            launch = partial(device.launch_kernel, self._module, self._name, int(address), stream.handle)
            guarded("cuLaunchKernel", launch)

    class Module:
        def __init__(self, source: bytes) -> None:
            self._handle = 0
            self._handle = device.load_module(source.decode())

        def get_function(self, name: str) -> Function:
            return Function(self._handle, name)

        def __del__(self) -> None:
            device.modules.pop(self._handle, None)

    offered = {
        "Error": Error,
        "Module": Module,
        "LogicError": LogicError,
        "MemoryError": MemoryError,
        "Stream": Stream_,
        "Event": Event,
        "Device": Device,
        "Context": Context,
        "DeviceAllocation": Allocation,
        "PagelockedHostAllocation": PinnedBase,
        "module_from_buffer": lambda buffer: guarded("cuModuleLoadData", lambda: Module(buffer)),
        "init": lambda: guarded("cuInit", lambda: None),
        "mem_alloc": lambda nbytes: guarded("cuMemAlloc", lambda: Allocation("memory", nbytes)),
        "pagelocked_empty": pagelocked_empty,
        "memcpy_htod_async": lambda d, h, s: copy(int(d), h.ctypes.data, h.nbytes, s),
        "memcpy_dtoh_async": lambda h, d, s: copy(h.ctypes.data, int(d), h.nbytes, s),
        "mem_get_info": lambda: (device.total - sum(map(len, device.memory.values())), device.total),
        "get_driver_version": lambda: device.driver_cuda,
        "device_attribute": types.SimpleNamespace(MULTIPROCESSOR_COUNT="MULTIPROCESSOR_COUNT", INTEGRATED="INTEGRATED"),
    }
    for name, value in offered.items():
        setattr(module, name, value)
    return module
