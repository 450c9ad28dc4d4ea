"""A build of a graph whose inner tensors are seen: as further outputs, or as debug tensors.

`mark_output` takes a fused layer apart, and so changes the engine under suspicion. Debug tensors that are left unfused
(10.13 and later, "Debug Tensors" in NVIDIA's documentation) change nothing, and are told to a listener while the engine
runs, by the names that the inspector has for them; those within what is compiled as a whole have names of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path, verified_sidecar
from edgecnn.backends import BuildOptions
from edgecnn.backends._cuda import Cuda, load_cuda
from edgecnn.backends.trt.build import build_plan, make_builder, make_config, make_network, parse_graph
from edgecnn.backends.trt.contexts import allocate_block, shaped_context
from edgecnn.backends.trt.engine import spec_of
from edgecnn.backends.trt.flavor import Flavor
from edgecnn.backends.trt.library import device_facts, failure, load_tensorrt, logger_for, recording
from edgecnn.backends.trt.lock import locked_cache_path
from edgecnn.backends.trt.profiles import add_profiles, profiles_of
from edgecnn.backends.trt.timing import default_cache_path
from edgecnn.errors import BackendError, EdgecnnError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.session import Array, Session, SessionInfo

NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32"}


def build_watched(flavor: Flavor, engine: Path, graph: Path, tensors: Sequence[str] | None) -> Session | None:
    """The plan of `graph`, built with the settings and the timings of `engine`, that gives `tensors` too; with None all
    that its layers leave unfused. None where this TensorRT has no such debug tensors.

    The timing cache is read, and not added to. Raises `BackendError` for an engine that was built weakly typed, for a
    tensor that the network does not have, and as a build does.
    """
    trt, cuda, known = load_tensorrt(flavor), load_cuda(), read_sidecar(engine)
    if known.facts.get("weakly_typed"):
        raise BackendError(
            f"{engine}: it was built weakly typed: which tensors are INT8 is TensorRT's choice, and not its graph's",
            "look into an engine of a graph with Q/DQ nodes: edgecnn quantize, then build",
        )
    options = _options_of(known)
    source = verified_sidecar(graph) if sidecar_path(graph).exists() else Sidecar(kind="graph")
    with recording(trt) as messages:
        builder = make_builder(trt, cuda if flavor.needs_gpu else None, messages)
        network = make_network(trt, builder)
        parser = parse_graph(trt, flavor, network, graph, source, messages)
        if tensors is None:
            mark = getattr(network, "mark_unfused_tensors_as_debug_tensors", None)
            if mark is None or not mark():
                return None
        else:
            _mark_outputs(network, graph, tensors)
        config, _ = make_config(trt, builder, cuda if flavor.needs_gpu else None, options, messages)
        add_profiles(builder, config, network, graph, options.batch, messages)
        cache = _timings(trt, config, engine, cuda) if flavor.needs_gpu else None
        plan = build_plan(trt, flavor, builder, network, config, graph, source, messages)
        del parser, cache  # both must outlive the build
    return WatchedPlan(trt, cuda, plan, graph, debugged=tensors is None)


class WatchedPlan(Session):
    """A plan that was built a moment ago, run without CUDA graphs; gives all its outputs and, where it is `debugged`,
    what a listener is told, by name."""

    def __init__(self, trt: Any, cuda: Cuda, plan: Any, graph: Path, debugged: bool) -> None:
        self._trt, self._cuda, self._graph, self._debugged = trt, cuda, graph, debugged
        with recording(trt) as messages:
            self._runtime = trt.Runtime(logger_for(trt))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise failure(f"{graph}: the plan just built cannot be loaded", messages, "report it")
        names = [self._engine.get_tensor_name(k) for k in range(self._engine.num_io_tensors)]
        specs = [
            spec_of(name, self._engine.get_tensor_shape(name), self._engine.get_tensor_dtype(name)) for name in names
        ]
        taken = [self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names]
        (given,) = (spec for spec, is_input in zip(specs, taken, strict=True) if is_input)
        profiles = profiles_of(self._engine, given.name)
        self._info = SessionInfo(
            inputs=(given,),
            outputs=tuple(spec for spec, is_input in zip(specs, taken, strict=True) if not is_input),
            batches=tuple((least[0], most[0]) for least, _, most in profiles),
        )

    @property
    def info(self) -> SessionInfo:
        """Inputs and outputs, the further ones among them."""
        return self._info

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output and every debug tensor; raises as TensorRT and CUDA fail."""
        self.info.require_inputs(inputs)
        trt, cuda, name = self._trt, self._cuda, self.input.name
        batch = np.ascontiguousarray(inputs[name])
        with contextlib.ExitStack() as held, recording(trt) as messages:
            stream = cuda.create_stream()
            held.callback(cuda.destroy_stream, stream)
            block = allocate_block(cuda, self._engine, held)
            context = shaped_context(trt, self._engine, name, batch.shape, messages, block)
            listener = _listener(trt, cuda, stream)
            if self._debugged:
                _tell_all_unfused(context, listener)
            buffers = dict[str, tuple[Any, int, npt.NDArray[Any]]]()
            for tensor in (name, *(spec.name for spec in self._info.outputs)):
                kind = NUMPY[self._engine.get_tensor_dtype(tensor).name]
                values = np.empty(tuple(context.get_tensor_shape(tensor)), kind)
                host, device = _host_and_device(cuda, held, values.nbytes)
                if not context.set_tensor_address(tensor, device):
                    raise failure(f"{self._graph}: TensorRT refuses the buffer of {tensor}", messages, "report it")
                buffers[tensor] = host, device, values
            host, device, _ = buffers.pop(name)
            host[: batch.nbytes] = batch.reshape(-1).view(np.uint8)
            cuda.to_device(device, host, batch.nbytes, stream)
            if not context.execute_async_v3(cuda.handle(stream)):
                raise failure(f"{self._graph}: TensorRT could not run a batch", messages, "its message is above")
            for host, device, values in buffers.values():
                cuda.to_host(host, device, values.nbytes, stream)
            cuda.synchronize_stream(stream)
            if listener.failed is not None:
                raise listener.failed
            found = {
                tensor: host[: values.nbytes].view(values.dtype).reshape(values.shape).copy()
                for tensor, (host, _, values) in buffers.items()
            }
        return {**listener.told, **found}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._engine, self._runtime  # in this order: the runtime must outlive the engine


def _tell_all_unfused(run: Any, listener: Any) -> None:
    """Let a context tell a listener all that its layers leave unfused (10.13 and later); one that takes no listener
    tells nothing."""
    run.unfused_tensors_debug_state = True
    run.set_debug_listener(listener)


def _listener(trt: Any, cuda: Cuda, stream: Any) -> Any:
    """A debug listener (10.0 and later) that keeps a copy of what it is told: the memory is the engine's again when it
    returns. No exception may leave it; `failed` is the one that ended it."""

    class Listener(trt.IDebugListener):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.told: dict[str, npt.NDArray[Any]] = {}
            self.failed: EdgecnnError | None = None

        def process_debug_tensor(
            self,
            addr: int,
            location: Any,
            type: Any,
            shape: Any,
            name: str,
            stream: int,
        ) -> bool:
            try:
                if type.name in NUMPY and (values := np.empty(tuple(shape), NUMPY[type.name])).size:
                    _copy(values, addr, location)
                    self.told[name] = values
            except EdgecnnError as exc:
                self.failed = exc
            return self.failed is None

    def _copy(values: npt.NDArray[Any], addr: int, location: Any) -> None:
        if location == trt.TensorLocation.HOST:
            ctypes.memmove(values.ctypes.data, addr, values.nbytes)
            return
        with contextlib.ExitStack() as held:
            address, host = cuda.malloc_pinned(values.nbytes)
            held.callback(cuda.free_pinned, address)
            cuda.to_host(host, addr, values.nbytes, stream)
            cuda.synchronize_stream(stream)
            values.reshape(-1).view(np.uint8)[:] = host[: values.nbytes]

    return Listener()


def _host_and_device(cuda: Cuda, held: contextlib.ExitStack, nbytes: int) -> tuple[Any, int]:
    pinned, host = cuda.malloc_pinned(nbytes)
    held.callback(cuda.free_pinned, pinned)
    device = cuda.malloc(nbytes)
    held.callback(cuda.free, device)
    return host, device


def _mark_outputs(network: Any, graph: Path, tensors: Sequence[str]) -> None:
    layers = (network.get_layer(k) for k in range(network.num_layers))
    made = {t.name: t for layer in layers for t in (layer.get_output(k) for k in range(layer.num_outputs))}
    given = {network.get_output(k).name for k in range(network.num_outputs)}
    for name in tensors:
        if name not in made:
            raise BackendError(f"{graph}: TensorRT's network has no tensor {name}", "report it with the graph")
        if name not in given:
            network.mark_output(made[name])


def _options_of(known: Sidecar) -> BuildOptions:
    """Those that an engine was built with, as its sidecar has them."""
    facts = known.facts
    sizes = [tuple(int(p[key][0]) for key in ("min", "opt", "max")) for p in facts.get("profiles") or []]
    least, best, most = sizes[0] if sizes else (1, 1, 1)
    if len(sizes) > 1:
        most = max(size[2] for size in sizes)
    workspace = facts.get("workspace_bytes")
    return BuildOptions(
        target=known.target,
        batch=BatchSettings(least, best, most, tuple(sizes) if len(sizes) > 1 else None),
        workspace_mb=None if workspace is None else workspace / 1e6,
        optimization_level=facts.get("optimization_level"),
        build_route=facts.get("build_route", ""),
        hardware_compatibility=facts.get("hardware_compatibility", "none"),
        compute_capabilities=tuple(facts.get("compute_capabilities", ())),
    )


def _timings(trt: Any, config: Any, engine: Path, cuda: Cuda) -> Any:
    """The timing cache of the engine's own build, else this machine's, so that kernels are the same where they can."""
    if (editable := getattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE", None)) is not None:
        config.set_flag(editable)
    own, common = locked_cache_path(engine), default_cache_path(device_facts(cuda, trt.__version__))
    content = next((path.read_bytes() for path in (own, common) if path.is_file()), b"")
    cache = config.create_timing_cache(content) or config.create_timing_cache(b"")
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache
