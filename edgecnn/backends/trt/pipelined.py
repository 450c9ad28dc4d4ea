"""A plan run as trtexec runs it: copies in, compute and copies out on a stream each, two queries in flight.

While one query computes, the input of the next is copied in and the output of the one before is copied out. The input
lies in pinned memory from the start: no query copies on the host. Each of the two queries in flight has buffers, an
execution context and a CUDA graph of its own, so that neither writes what the other reads (trtexec's share theirs); the
contexts run one after the other, on one stream and in one block of device memory.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np

from edgecnn.backends._cuda import Bytes, Cuda
from edgecnn.backends.trt.contexts import Block, allocate_block, shaped_context
from edgecnn.backends.trt.graph import recorded_graph
from edgecnn.backends.trt.library import Message, failure, recording
from edgecnn.backends.trt.profiles import profile_text, profiles_of
from edgecnn.backends.trt.rtx import RtxRuntime
from edgecnn.errors import DeviceError
from edgecnn.session import Array, Pipeline, PipelineOptions, Query, SessionInfo, TensorSpec

IN_FLIGHT = 2
SYNC = "two queries in flight, copies in, compute and copies out on a stream each; the host waits for the older query"


@dataclass
class _Slot:
    """One of the two queries in flight: its buffers, and how far it has come."""

    context: Any
    input: tuple[Bytes, int]
    outputs: list[tuple[Bytes, int]]
    shapes: list[tuple[int, ...]]  # of the outputs
    events: list[Any]  # start and end of the copy in, of compute, of the copy out
    graph: Any = None
    replayed: bool = False  # by TensorRT-RTX itself
    active: bool = False
    enqueue_ms: tuple[float, float] = (0.0, 0.0)


@dataclass
class _Lane:
    """One of `--streams`: three streams that share two slots."""

    streams: tuple[Any, Any, Any]
    block: Block
    slots: list[_Slot] = field(default_factory=list)
    next: int = 0


class TrtPipeline(Pipeline):
    """Queries of one batch on a deserialised engine; a context manager that frees what it holds."""

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        engine: Any,
        info: SessionInfo,
        batch: Array,
        options: PipelineOptions,
        rtx: RtxRuntime | None = None,
    ) -> None:
        self._trt, self._cuda, self._options, self._info = trt, cuda, options, info
        self._rtx = rtx
        self._fallback = "" if cuda.captures or rtx else f"{cuda.name} cannot record them"
        self._lanes: list[_Lane] = []
        self._origin_ms = 0.0
        self._profile = profile_text(profiles_of(engine, info.inputs[0].name), batch.shape)
        with contextlib.ExitStack() as opening, recording(trt) as messages:
            self._origin = self._event(opening)
            for _ in range(options.streams):
                streams = (self._stream(opening), self._stream(opening), self._stream(opening))
                lane = _Lane(streams, allocate_block(cuda, engine, opening))
                lane.slots += [self._slot(opening, lane, engine, batch, messages) for _ in range(IN_FLIGHT)]
                self._lanes.append(lane)
            opening.callback(self._lanes.clear)
            self.begin()
            self._held = opening.pop_all()

    @property
    def info(self) -> SessionInfo:
        """As the session's, with how these queries are replayed and waited for."""
        graph = all(slot.replayed or slot.graph is not None for lane in self._lanes for slot in lane.slots)
        jit_ms = self._rtx.jit_ms if self._rtx else None
        return replace(
            self._info, graph=graph, graph_fallback=self._fallback, sync=SYNC, jit_ms=jit_ms, profile=self._profile
        )

    def begin(self) -> None:
        """Start the clock of the queries to come; none is in flight."""
        first = self._lanes[0].streams[0]
        self._cuda.record(self._origin, first)
        for lane in self._lanes:
            for stream in lane.streams:
                if stream is not first:
                    self._cuda.wait_for(self._origin, stream)
        self._origin_ms = _host_ms()

    def turn(self) -> list[Query]:
        """One more query on every stream, then the oldest one of each that has two in flight."""
        with recording(self._trt) as messages:
            for lane in self._lanes:
                self._submit(lane, messages)
        return [query for lane in self._lanes for query in self._collected(lane)]

    def drain(self) -> list[Query]:
        """Wait for what is in flight."""
        found = []
        for _ in range(IN_FLIGHT):
            for lane in self._lanes:
                found += self._collected(lane)
                lane.next = (lane.next + 1) % IN_FLIGHT
        return found

    def results(self) -> list[dict[str, Array]]:
        """The outputs of the last query of each slot, by name; nothing may be in flight. Without transfers they are
        copied out here."""
        found = []
        for lane in self._lanes:
            for slot in lane.slots:
                if not self._options.transfers:
                    self._copy_out(slot, lane.streams[2])
                    self._cuda.synchronize_stream(lane.streams[2])
                parts = zip(self._info.outputs, slot.shapes, slot.outputs, strict=True)
                found.append({s.name: _values(host, s, shape).copy() for s, shape, (host, _) in parts})
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(DeviceError) if kind else contextlib.nullcontext():
            self._held.close()

    def _stream(self, opening: contextlib.ExitStack) -> Any:
        stream = self._cuda.create_stream()
        opening.callback(self._cuda.destroy_stream, stream)
        return stream

    def _event(self, opening: contextlib.ExitStack) -> Any:
        event = self._cuda.create_event()
        opening.callback(self._cuda.destroy_event, event)
        return event

    def _buffer(self, opening: contextlib.ExitStack, nbytes: int) -> tuple[Bytes, int]:
        pinned, view = self._cuda.malloc_pinned(nbytes)
        opening.callback(self._cuda.free_pinned, pinned)
        device = self._cuda.malloc(nbytes)
        opening.callback(self._cuda.free, device)
        return view, device

    def _slot(
        self, opening: contextlib.ExitStack, lane: _Lane, engine: Any, batch: Array, messages: Sequence[Message]
    ) -> _Slot:
        """A query's context, which has run once, and its buffers, with the input on the host and on the device."""
        taken, given = self._info.inputs[0], self._info.outputs
        with self._compiling():
            context = shaped_context(
                self._trt,
                engine,
                taken.name,
                tuple(batch.shape),
                messages,
                lane.block,
                self._rtx.config if self._rtx else None,
            )
        shapes = [tuple(context.get_tensor_shape(spec.name)) for spec in given]
        host, device = self._buffer(opening, batch.nbytes)
        np.copyto(_values(host, taken, batch.shape), batch)
        sizes = [np.dtype(spec.dtype).itemsize * math.prod(n) for spec, n in zip(given, shapes, strict=True)]
        outputs = [self._buffer(opening, nbytes) for nbytes in sizes]
        for spec, (_, address) in zip((taken, *given), ((host, device), *outputs), strict=True):
            if not context.set_tensor_address(spec.name, address):
                raise failure(f"TensorRT refuses the buffer of {spec.name}", messages, "report it")
        slot = _Slot(context, (host, device), outputs, shapes, [self._event(opening) for _ in range(6)])
        stream = lane.streams[1]
        self._cuda.to_device(device, host, batch.nbytes, stream)
        with self._compiling():
            self._execute(slot, stream, messages)
            self._cuda.synchronize_stream(stream)
        self._record(opening, slot, stream)
        return slot

    def _compiling(self) -> contextlib.AbstractContextManager[None]:
        return self._rtx.compiling() if self._rtx else contextlib.nullcontext()

    def _record(self, opening: contextlib.ExitStack, slot: _Slot, stream: Any) -> None:
        """Make the slot's work a CUDA graph, which TensorRT-RTX does by itself; or keep why not."""
        handle, context = self._cuda.handle(stream), slot.context
        if self._rtx:
            slot.replayed = self._rtx.replays(context, handle)
            self._fallback = "" if slot.replayed else "TensorRT-RTX cannot record this engine"
        elif not self._fallback:
            slot.graph, self._fallback = recorded_graph(
                self._cuda, stream, lambda: bool(context.execute_async_v3(handle))
            )
            if slot.graph is not None:
                opening.callback(self._cuda.destroy_graph, slot.graph)

    def _submit(self, lane: _Lane, messages: Sequence[Message]) -> None:
        cuda, slot, (copies_in, compute, copies_out) = self._cuda, lane.slots[lane.next], lane.streams
        start_in, end_in, start, end, start_out, end_out = slot.events
        if self._options.transfers:
            self._mark(start_in, copies_in)
            host, device = slot.input
            cuda.to_device(device, host, len(host), copies_in)
            cuda.record(end_in, copies_in)
            cuda.wait_for(end_in, compute)
        self._mark(start, compute)
        before = _host_ms()
        self._execute(slot, compute, messages)
        slot.enqueue_ms = (before, _host_ms())
        cuda.record(end, compute)
        if self._options.transfers:
            cuda.wait_for(end, copies_out)
            self._mark(start_out, copies_out)
            self._copy_out(slot, copies_out)
            cuda.record(end_out, copies_out)
        slot.active = True
        lane.next = (lane.next + 1) % IN_FLIGHT

    def _mark(self, event: Any, stream: Any) -> None:
        """Record an event that only tells the time."""
        if self._options.timed:
            self._cuda.record(event, stream)

    def _execute(self, slot: _Slot, stream: Any, messages: Sequence[Message]) -> None:
        if slot.graph is not None:
            self._cuda.launch_graph(slot.graph, stream)
        elif not slot.context.execute_async_v3(self._cuda.handle(stream)):
            raise failure("TensorRT could not run a batch", messages, "the message above is TensorRT's own")

    def _copy_out(self, slot: _Slot, stream: Any) -> None:
        for host, device in slot.outputs:
            self._cuda.to_host(host, device, len(host), stream)

    def _collected(self, lane: _Lane) -> list[Query]:
        """The query in the slot that is to be used next, once it has ended; none where it is free."""
        slot = lane.slots[lane.next]
        if not slot.active:
            return []
        slot.active = False
        self._cuda.synchronize_event(slot.events[5 if self._options.transfers else 3])
        start, end = (ms - self._origin_ms for ms in slot.enqueue_ms)
        if not self._options.timed:
            return [Query.by_host(start, _host_ms() - self._origin_ms, end)]
        used = slot.events if self._options.transfers else [slot.events[k] for k in (2, 2, 2, 3, 3, 3)]
        a, b, c, d, e, f = (self._cuda.elapsed_ms(self._origin, event) for event in used)
        return [Query(start, end, a, b, c, d, e, f)]


def _values(host: Bytes, spec: TensorSpec, shape: Sequence[int]) -> Any:
    return host.view(spec.dtype).reshape(shape)


def _host_ms() -> float:
    return time.perf_counter_ns() / 1e6
