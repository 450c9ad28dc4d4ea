"""A plan as a Session: trusted, deserialised, run on a stream of its own, timed by events.

Each batch shape has an execution context of its own, and all compute in one block of device memory. Its first two
batches are enqueued; from the third on it is replayed as a CUDA graph, and where that cannot be had, its info says why.
Results are copied out: they are the caller's.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.backends._cuda import Cuda, load_cuda
from edgecnn.backends.trt.contexts import Block, allocate_block, shaped_context
from edgecnn.backends.trt.graph import recorded_graph
from edgecnn.backends.trt.inspector import layers_from_inspector
from edgecnn.backends.trt.library import (
    Message,
    device_facts,
    failure,
    load_tensorrt,
    logger_for,
    recording,
    warnings_in,
)
from edgecnn.backends.trt.plan import foreign_prefix_error, plan_mismatch, read_plan_header, rebuild_command
from edgecnn.backends.trt.profiles import profile_for, profile_text, profiles_of
from edgecnn.backends.trt.rtx import RtxRuntime
from edgecnn.backends.trt.timing import default_cache_path
from edgecnn.errors import ArtifactError, BackendError, DeviceError
from edgecnn.output import say
from edgecnn.results.layers import EngineLayer, LayerTimes
from edgecnn.session import Array, PipelineOptions, Session, SessionInfo, TensorSpec, Timing, outputs_mismatch

if TYPE_CHECKING:
    from edgecnn.backends.trt.pipelined import TrtPipeline

KEPT_SHAPES = 4
DTYPES = {"FLOAT": "float32", "UINT8": "uint8", "INT32": "int32"}  # of a serving contract, by TensorRT's names


@dataclass
class _Shape:
    """What is ready for one input shape."""

    context: Any
    output_shapes: tuple[tuple[int, ...], ...]
    used: bool = False
    graph: Any = None
    replayed: bool = False  # as a CUDA graph of the runtime's own


def trusted_plan(path: Path, trust: bool) -> tuple[bytes, Sidecar | None]:
    """The bytes of a plan that may be loaded, and its sidecar; raises `ArtifactError` for what is not to be trusted.

    A plan is native code. The bytes that are hashed are those that are loaded. `trust` lets a plan without a sidecar
    through; one that its sidecar contradicts is refused in any case.
    """
    header = read_plan_header(path)
    if header.offset:
        raise foreign_prefix_error(path, header)
    if not sidecar_path(path).exists():
        if not trust:
            raise ArtifactError(
                f"{path}: has no sidecar {sidecar_path(path).name}, and a plan is native code",
                "copy the sidecar along; if you know who built the plan, --trust loads it without",
            )
        return path.read_bytes(), None
    sidecar = read_sidecar(path)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    again = rebuild_command(path, sidecar, header.flavor)
    if found != sidecar.sha256:
        raise ArtifactError(
            f"{path}: its sha256 {found[:12]} is not the one its sidecar promises ({sidecar.sha256[:12]})",
            f"it was changed or half copied: copy both again, or rebuild it: {again}",
        )
    return content, sidecar


class TrtSession(Session):
    """A deserialised plan on this machine's GPU."""

    def __init__(self, path: Path, trust: bool = False) -> None:
        content, sidecar = trusted_plan(path, trust)
        header = read_plan_header(path)
        self._flavor = header.flavor
        self._trt = load_tensorrt(self._flavor)
        self._cuda: Cuda = load_cuda()
        device = device_facts(self._cuda, self._trt.__version__)
        self._pci_bus_id = self._cuda.properties().pci_bus_id
        if mismatch := plan_mismatch(path, header, sidecar, self._trt.__version__, device):
            raise BackendError(*mismatch)
        self.path = path
        self.sidecar = sidecar
        records = self._cuda.captures or self._flavor.compiles_at_load
        self._graph_fallback = "" if records else f"{self._cuda.name} cannot record them"
        self._shapes: OrderedDict[tuple[int, ...], _Shape] = OrderedDict()
        with contextlib.ExitStack() as opening, recording(self._trt) as messages:
            self._runtime, self._engine = self._deserialised(content, sidecar, trust, messages)
            opening.callback(self._drop_engine)
            self._rtx: RtxRuntime | None = None
            if self._flavor.compiles_at_load:
                kept = default_cache_path(device, "runtime", hashlib.sha256(content).hexdigest()[:16])
                self._rtx = RtxRuntime(self._trt, self._engine, kept, messages)
                opening.callback(self._rtx.save)
            self._input, self._outputs = self._io()
            self._profiles = profiles_of(self._engine, self._input.name)
            self._largest = max((most for _, _, most in self._profiles), key=math.prod)
            self._stream = self._cuda.create_stream()
            opening.callback(self._cuda.destroy_stream, self._stream)
            self._block = allocate_block(self._cuda, self._engine, opening)
            opening.callback(self._drop_shapes)
            self._events = [self._event(opening) for _ in range(4)]
            largest = self._context(self._largest, messages, None, self._rtx)
            self._host_in, self._device_in = self._buffers(opening, self._input, self._largest)
            self._results = [
                self._buffers(opening, spec, tuple(largest.get_tensor_shape(spec.name))) for spec in self._outputs
            ]
            del largest
            for warning in warnings_in(messages):
                say(f"{path}: TensorRT warns: {warning}")
            self._held = opening.pop_all()

    @property
    def info(self) -> SessionInfo:
        """Input and output (a dynamic batch is None), and how the batch shape run last is replayed."""
        last = next(reversed(self._shapes.values()), None)
        return SessionInfo(
            inputs=(self._input,),
            outputs=self._outputs,
            graph=last is not None and (last.replayed or last.graph is not None),
            graph_fallback=self._graph_fallback,
            sync="stream synchronisation, copies and compute in sequence on one stream",
            batches=tuple((least[0], most[0]) for least, _, most in self._profiles),
            profile=profile_text(self._profiles, next(reversed(self._shapes))) if self._shapes else "",
            pci_bus_id=self._pci_bus_id,
            jit_ms=self._rtx.jit_ms if self._rtx else None,
        )

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises `BackendError` for another input, or for a shape outside the profile."""
        self.info.require_inputs(inputs)
        shape = self._enqueue(inputs[self._input.name], timed=False)
        return {spec.name: self._result(shape, k) for k, spec in enumerate(self._outputs)}

    def timed(self, batch: Array) -> Timing:
        """H2D, compute and D2H of one batch by CUDA events, in milliseconds."""
        self._enqueue(batch, timed=True)
        h2d, compute, d2h = (self._cuda.elapsed_ms(a, b) for a, b in zip(self._events, self._events[1:], strict=False))
        return Timing(h2d, compute, d2h, "cuda events")

    def layers(self, batch: int) -> list[EngineLayer]:
        """The engine's layers at one batch size."""
        known = self.sidecar.facts.get("macs_by_node", {}) if self.sidecar else {}
        with recording(self._trt) as messages:
            return inspected_layers(self._trt, self._engine, batch, known, messages)

    def pipeline(self, batch: Array, options: PipelineOptions) -> TrtPipeline:
        """Queries of `batch` that overlap, as trtexec's do."""
        from edgecnn.backends.trt.pipelined import TrtPipeline

        self._check(batch)
        return TrtPipeline(self._trt, self._cuda, self._engine, self.info, batch, options, self._rtx)

    def layers_json(self, batch: int) -> str:
        """The inspector's JSON at one batch size."""
        with recording(self._trt) as messages:
            return inspector_json(self._trt, self._engine, batch, messages)

    def layer_runs_ms(self, batch: Array, queries: int) -> list[LayerTimes]:
        """By TensorRT's profiler, which slows the whole: shares are to be read from it."""
        from edgecnn.backends.trt.profile import profiled_layers

        self.run(batch)  # the input is on the device
        with recording(self._trt) as messages:
            shape = self._new_shape(tuple(batch.shape), messages, profiled=True)
            return profiled_layers(self._trt, self._cuda, shape.context, self._stream, queries, messages)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(DeviceError) if kind else contextlib.nullcontext():
            self._held.close()

    def _deserialised(
        self, content: bytes, sidecar: Sidecar | None, trust: bool, messages: Sequence[Message]
    ) -> tuple[Any, Any]:
        try:
            runtime = self._trt.Runtime(logger_for(self._trt))
        except TypeError as exc:
            raise failure("TensorRT's runtime cannot be made", messages, "`edgecnn doctor` shows what is here") from exc
        if sidecar and sidecar.facts.get("version_compatible"):
            if not trust:
                raise ArtifactError(
                    f"{self.path}: a version compatible plan carries host code, which is off",
                    "load it with --trust if you built it, or rebuild it without version compatibility",
                )
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise failure(
                f"{self.path}: {self._flavor.product} {self._trt.__version__} cannot load it",
                messages,
                f"rebuild it here: {rebuild_command(self.path, sidecar, self._flavor)}",
            )
        return runtime, engine

    def _io(self) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
        """Input and outputs."""
        trt, engine = self._trt, self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        types = {engine.get_tensor_dtype(n) for n in names}
        sidecar = self.sidecar or Sidecar(kind="engine")
        plain = not sidecar.features and sidecar.contract.is_plain
        if plain and (len(inputs) != 1 or len(outputs) != 1 or types != {trt.DataType.FLOAT}):
            raise ArtifactError(
                f"{self.path}: inputs {inputs}, outputs {outputs} of {sorted(t.name for t in types)}; a classifier has "
                "one FLOAT input and one FLOAT output, where its sidecar names no other serving contract",
                "build it with edgecnn from a graph that `edgecnn import` accepts",
            )
        taken, given = ([self._spec(name) for name in names] for names in (inputs, outputs))
        if mismatch := outputs_mismatch(sidecar, taken, given):
            raise ArtifactError(f"{self.path}: {mismatch}", "copy plan and sidecar together, or build it again")
        return taken[0], tuple(given)

    def _spec(self, name: str) -> TensorSpec:
        return spec_of(name, self._engine.get_tensor_shape(name), self._engine.get_tensor_dtype(name))

    def _event(self, opening: contextlib.ExitStack) -> Any:
        event = self._cuda.create_event()
        opening.callback(self._cuda.destroy_event, event)
        return event

    def _buffers(self, opening: contextlib.ExitStack, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[Any, int]:
        nbytes = _bytes_of(spec, shape)
        pinned, view = self._cuda.malloc_pinned(nbytes)
        opening.callback(self._cuda.free_pinned, pinned)
        device = self._cuda.malloc(nbytes)
        opening.callback(self._cuda.free, device)
        return view, device

    def _enqueue(self, batch: Array, timed: bool) -> _Shape:
        """Copy in, compute, copy out, wait; the result is then in pinned memory."""
        self._check(batch)
        cuda, stream = self._cuda, self._stream
        with recording(self._trt) as messages:
            shape = self._prepared(tuple(batch.shape), messages)
            np.copyto(self._host_in[: batch.nbytes].view(batch.dtype).reshape(batch.shape), batch)
            self._mark(0, timed)
            cuda.to_device(self._device_in, self._host_in, batch.nbytes, stream)
            self._mark(1, timed)
            self._compute(shape, messages)
            self._mark(2, timed)
            for (host, device), spec, given in zip(self._results, self._outputs, shape.output_shapes, strict=True):
                cuda.to_host(host, device, _bytes_of(spec, given), stream)
            self._mark(3, timed)
            cuda.synchronize_stream(stream)
            if not shape.used:
                shape.used = True
            elif shape.graph is None and not shape.replayed and not self._graph_fallback:
                self._capture(shape)
        return shape

    def _mark(self, index: int, timed: bool) -> None:
        if timed:
            self._cuda.record(self._events[index], self._stream)

    def _compute(self, shape: _Shape, messages: Sequence[Message]) -> None:
        if shape.graph is not None:
            self._cuda.launch_graph(shape.graph, self._stream)
        elif not shape.context.execute_async_v3(self._cuda.handle(self._stream)):
            raise failure(
                f"{self.path}: TensorRT could not run a batch", messages, "the message above is TensorRT's own"
            )

    def _capture(self, shape: _Shape) -> None:
        """Record the work of one shape as a graph, after one ordinary enqueue (trtexec); or say why not."""
        shape.graph, self._graph_fallback = recorded_graph(
            self._cuda, self._stream, lambda: bool(shape.context.execute_async_v3(self._cuda.handle(self._stream)))
        )

    def _result(self, shape: _Shape, k: int) -> Array:
        (host, _), spec, given = self._results[k], self._outputs[k], shape.output_shapes[k]
        values: Array = host[: _bytes_of(spec, given)].view(spec.dtype).reshape(given).copy()
        return values

    def _check(self, batch: Array) -> None:
        if profile_for(self._profiles, batch.shape) is None or batch.dtype != self._input.dtype:
            shown = " or ".join(
                "x".join(str(a) if a == b else f"({a}..{b})" for a, b in zip(least, most, strict=True))
                for least, _, most in self._profiles
            )
            raise BackendError(
                f"{self.path}: a batch of shape {'x'.join(map(str, batch.shape))}, {batch.dtype}; the engine takes "
                f"{shown}, {self._input.dtype}",
                "use the model's preprocessing, or rebuild the engine with another batch.min and batch.max",
            )

    def _prepared(self, shape: tuple[int, ...], messages: Sequence[Message]) -> _Shape:
        """The context for one input shape, made on its first use; the one not used for longest goes when there are too
        many."""
        if shape not in self._shapes:
            if len(self._shapes) >= KEPT_SHAPES:
                self._drop_shape(next(iter(self._shapes)))
            self._shapes[shape] = self._new_shape(shape, messages)
        self._shapes.move_to_end(shape)
        return self._shapes[shape]

    def _new_shape(self, shape: tuple[int, ...], messages: Sequence[Message], profiled: bool = False) -> _Shape:
        rtx = None if profiled else self._rtx  # a replayed graph has no layers
        context = self._context(shape, messages, self._block, rtx)
        addresses = {spec.name: device for spec, (_, device) in zip(self._outputs, self._results, strict=True)}
        for name, address in {self._input.name: self._device_in, **addresses}.items():
            if not context.set_tensor_address(name, address):
                raise failure(f"{self.path}: TensorRT refuses the buffer of {name}", messages, "report it")
        found = _Shape(context, tuple(tuple(context.get_tensor_shape(spec.name)) for spec in self._outputs))
        if rtx:
            with rtx.compiling():
                self._compute(found, messages)
                self._cuda.synchronize_stream(self._stream)
            found.replayed = rtx.replays(context, self._cuda.handle(self._stream))
            self._graph_fallback = "" if found.replayed else f"{self._flavor.product} cannot record this engine"
        return found

    def _context(
        self, shape: tuple[int, ...], messages: Sequence[Message], block: Block | None, rtx: RtxRuntime | None
    ) -> Any:
        with rtx.compiling() if rtx else contextlib.nullcontext():
            config = rtx.config if rtx else None
            return shaped_context(self._trt, self._engine, self._input.name, shape, messages, block, config)

    def _drop_shape(self, shape: tuple[int, ...]) -> None:
        dropped = self._shapes.pop(shape)
        if dropped.graph is not None:
            self._cuda.destroy_graph(dropped.graph)

    def _drop_shapes(self) -> None:
        for shape in list(self._shapes):
            self._drop_shape(shape)

    def _drop_engine(self) -> None:
        self._rtx = None  # its configuration is the engine's
        del self._engine, self._runtime  # in this order: the runtime must outlive the engine


def spec_of(name: str, shape: Sequence[int], dtype: Any) -> TensorSpec:
    """A tensor of TensorRT's, with numpy's name of its type where it has one here."""
    return TensorSpec(name, tuple(n if n >= 0 else None for n in shape), DTYPES.get(dtype.name, dtype.name.lower()))


def _bytes_of(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    return int(np.dtype(spec.dtype).itemsize * np.prod(shape))


def _input_at(trt: Any, engine: Any, batch: int) -> tuple[str, tuple[int, ...]]:
    """The input's name, and its shape at one batch size."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    name = next(n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT)
    return name, (batch, *tuple(engine.get_tensor_shape(name))[1:])


def inspected_layers(
    trt: Any, engine: Any, batch: int, macs_by_node: Mapping[str, int | None], messages: Sequence[Message]
) -> list[EngineLayer]:
    """Layers of an engine at one batch size."""
    name, shape = _input_at(trt, engine, batch)
    profile = profile_for(profiles_of(engine, name), shape) or 0
    return layers_from_inspector(inspector_json(trt, engine, batch, messages), macs_by_node, profile)


def inspector_json(trt: Any, engine: Any, batch: int, messages: Sequence[Message]) -> str:
    """What the inspector tells at one batch size: without a context with shapes it knows no types."""
    context = shaped_context(trt, engine, *_input_at(trt, engine, batch), messages)
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
