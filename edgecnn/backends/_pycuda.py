"""pycuda behind the CUDA seam: the driver API on the device's primary context, without CUDA graphs."""

from __future__ import annotations

import atexit
from typing import Any

import numpy as np

from edgecnn.backends._cuda import HINTS, Bytes, GpuProperties, cuda_version
from edgecnn.errors import DeviceError


class PyCuda:
    """pycuda: the driver API on the device's primary context; it frees by object, so the objects are kept here."""

    name = "pycuda"
    captures = False

    def __init__(self, driver: Any, note: str = "") -> None:
        self._driver, self.note = driver, note
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

    def wait_for(self, event: Any, stream: Any) -> None:
        """Let what is queued on the stream from now on wait for the event."""
        self._check(stream.wait_for_event, event)

    def synchronize_event(self, event: Any) -> None:
        """Wait until the event has passed."""
        self._check(event.synchronize)

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

    def launch(self, source: bytes, name: str, address: int, stream: Any) -> None:
        """Queue one thread of the kernel `name` of PTX `source`, with an address as its only argument."""
        module = self._check(self._driver.module_from_buffer, source)
        function = self._check(module.get_function, name)
        self._check(lambda: function(np.uint64(address), block=(1, 1, 1), grid=(1, 1), stream=stream))
        self._check(stream.synchronize)  # its code goes with the module

    def clear_error(self) -> None:
        """The driver API keeps none."""

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
            cuda_version(int(self._check(self._driver.get_driver_version))),
            str(self._check(self._device.pci_bus_id)),
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
