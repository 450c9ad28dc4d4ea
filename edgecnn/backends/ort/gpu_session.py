"""A graph on ONNX Runtime's GPU providers, bound to device memory and timed by CUDA's events on a stream of its own."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgecnn.backends._cuda import Bytes, load_cuda
from edgecnn.backends._onnxruntime import onnxruntime_errors
from edgecnn.backends.ort.opening import load_provider, open_gpu_session, shapes_of, tells_placement
from edgecnn.backends.ort.provider import CPU, Provider
from edgecnn.backends.ort.session import require_shapes, spec_of
from edgecnn.errors import BackendError, DeviceError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.records import parse_json
from edgecnn.session import Array, Session, SessionInfo, TensorSpec, Timing

KEPT_SHAPES = 4
IN_FLOAT = "INT8 in float: the CUDA provider has no integer convolutions"


@dataclass(frozen=True)
class _Tensor:
    """One bound input or output: pinned memory with its view, and its place on the device."""

    spec: TensorSpec
    shape: tuple[int, ...]
    host: int
    view: Bytes
    device: int

    @property
    def nbytes(self) -> int:
        return len(self.view)


@dataclass(frozen=True)
class _Bound:
    """What is ready for one set of input shapes."""

    binding: Any
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]


class GpuSession(Session):
    """A graph on one of ONNX Runtime's GPU providers; what that leaves to the CPU is counted, and nothing on the GPU is
    an error. With `simulated` Q/DQ pairs are computed as they stand, in float.

    `batch` are the batches that a provider which compiles does it for.
    """

    def __init__(
        self, path: Path, provider: Provider, batch: BatchSettings | None = None, *, simulated: bool = False
    ) -> None:
        runtime = load_provider(provider)
        self._cuda = load_cuda()
        self.path, self._provider = path, provider
        self._bound: OrderedDict[tuple[tuple[int, ...], ...], _Bound] = OrderedDict()
        with contextlib.ExitStack() as opening:
            self._stream = self._cuda.create_stream()
            opening.callback(self._cuda.destroy_stream, self._stream)
            shapes = self._shapes(runtime, batch) if provider.compiles else {}
            self._session = open_gpu_session(
                provider,
                path,
                self._cuda.handle(self._stream),
                self._cuda.properties(),
                shapes,
                exact=simulated,
            )
            opening.callback(self._drop_session)
            self._run_options = runtime.RunOptions()
            self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
            self._events = [self._cuda.create_event() for _ in range(4)]
            for event in self._events:
                opening.callback(self._cuda.destroy_event, event)
            opening.callback(self._drop_bound)
            inputs = tuple(spec_of(value) for value in self._session.get_inputs())
            placed = self._placed(runtime, inputs, batch)
            self._info = SessionInfo(
                inputs=inputs,
                outputs=tuple(spec_of(value) for value in self._session.get_outputs()),
                sync="stream synchronization, copies and compute in sequence on one stream",
                simulated=IN_FLOAT if simulated else "",
                batches=((batch.min, batch.max),) if batch and provider.compiles else (),
                cpu_nodes=placed[CPU.name],
                graph_nodes=placed.total(),
                pci_bus_id=self._cuda.properties().pci_bus_id,
            )
            self._held = opening.pop_all()

    @property
    def info(self) -> SessionInfo:
        """Inputs and outputs of the graph, and how many of its nodes are left to the CPU."""
        return self._info

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises `BackendError` for other inputs, or for one of another shape."""
        bound = self._query(inputs)
        return {
            t.spec.name: t.view.view(t.spec.dtype).reshape(t.shape).copy()  # the next query overwrites the view
            for t in bound.outputs
        }

    def timed(self, batch: Array) -> Timing:
        """H2D, compute and D2H of one batch by CUDA events, in milliseconds."""
        self._query({self.input.name: batch})
        h2d, compute, d2h = (self._cuda.elapsed_ms(a, b) for a, b in zip(self._events, self._events[1:], strict=False))
        return Timing(h2d, compute, d2h, "cuda events")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(DeviceError) if kind else contextlib.nullcontext():
            self._held.close()

    def _query(self, inputs: Mapping[str, Array]) -> _Bound:
        require_shapes(self.path, self._info, inputs)
        cuda, stream = self._cuda, self._stream
        key = tuple(tuple(inputs[spec.name].shape) for spec in self._info.inputs)
        if key not in self._bound:
            self._bound[key] = self._bind(inputs)
        bound = self._bound[key]
        self._bound.move_to_end(key)
        for tensor in bound.inputs:
            np.copyto(tensor.view.view(tensor.spec.dtype).reshape(tensor.shape), inputs[tensor.spec.name])
        cuda.record(self._events[0], stream)
        for tensor in bound.inputs:
            cuda.to_device(tensor.device, tensor.view, tensor.nbytes, stream)
        cuda.record(self._events[1], stream)
        with onnxruntime_errors(self.path, "failed", "see the message above", DeviceError):
            self._session.run_with_iobinding(bound.binding, self._run_options)
        cuda.record(self._events[2], stream)
        for tensor in bound.outputs:
            cuda.to_host(tensor.view, tensor.device, tensor.nbytes, stream)
        cuda.record(self._events[3], stream)
        cuda.synchronize_stream(stream)
        return bound

    def _bind(self, inputs: Mapping[str, Array]) -> _Bound:
        """Device memory for inputs and outputs of these shapes; a first run tells those of the outputs."""
        while len(self._bound) >= KEPT_SHAPES:
            self._free(self._bound.popitem(last=False)[1])
        with onnxruntime_errors(self.path, "failed", "see the message above", DeviceError):
            first = self._session.run(None, {name: np.ascontiguousarray(array) for name, array in inputs.items()})
        with contextlib.ExitStack() as opening:
            taken = [self._tensor(opening, spec, inputs[spec.name].shape) for spec in self._info.inputs]
            given = [
                self._tensor(opening, spec, array.shape) for spec, array in zip(self._info.outputs, first, strict=True)
            ]
            binding = self._session.io_binding()
            for bind, tensors in ((binding.bind_input, taken), (binding.bind_output, given)):
                for t in tensors:
                    bind(t.spec.name, "cuda", 0, np.dtype(t.spec.dtype), list(t.shape), t.device)
            opening.pop_all()
        return _Bound(binding, tuple(taken), tuple(given))

    def _tensor(self, opening: contextlib.ExitStack, spec: TensorSpec, shape: Sequence[int]) -> _Tensor:
        nbytes = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
        host, view = self._cuda.malloc_pinned(nbytes)
        opening.callback(self._cuda.free_pinned, host)
        device = self._cuda.malloc(nbytes)
        opening.callback(self._cuda.free, device)
        return _Tensor(spec, tuple(shape), host, view, device)

    def _free(self, bound: _Bound) -> None:
        for tensor in (*bound.inputs, *bound.outputs):
            self._cuda.free_pinned(tensor.host)
            self._cuda.free(tensor.device)

    def _drop_bound(self) -> None:
        while self._bound:
            self._free(self._bound.popitem()[1])

    def _drop_session(self) -> None:
        del self._session

    def _shapes(self, runtime: Any, batch: BatchSettings | None) -> dict[str, str]:
        """The shapes to compile for, as the provider writes them; raises `BackendError` where they are not known."""
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        with onnxruntime_errors(self.path):
            looked_at = runtime.InferenceSession(str(self.path), options, providers=[CPU.name])
        first = spec_of(looked_at.get_inputs()[0])
        if None in first.shape[1:]:
            raise BackendError(
                f"{self.path}: more than the batch of {first.name} is left open, and {self._provider.name} compiles it "
                "for fixed images",
                "export it with one size of images; or --provider cuda, which takes any",
            )
        if batch is None and first.shape[0] is None:
            raise BackendError(
                f"{self.path}: a graph of any batch; {self._provider.name} compiles it for those that are settled "
                "when it is built",
                f"build it: edgecnn build {self.path} --backend {self._provider.backend} --max-batch N",
            )
        return shapes_of(first.name, first.shape, batch)

    def _placed(self, runtime: Any, inputs: Sequence[TensorSpec], batch: BatchSettings | None) -> Counter[str]:
        """How many nodes each provider has; raises `DeviceError` where the one that was asked for has none."""
        if tells_placement(runtime):
            parts = self._session.get_provider_graph_assignment_info()
            placed = Counter({part.ep_name: 0 for part in parts})
            for part in parts:
                placed[part.ep_name] += len(part.get_nodes())
        else:
            least = batch.min if batch else 1
            zeros = {i.name: np.zeros([n or least for n in i.shape], i.dtype) for i in inputs}
            with onnxruntime_errors(self.path, "failed", "see the message above", DeviceError):
                self._session.run(None, zeros)
                profile = Path(self._session.end_profiling())
            placed = nodes_in_profile(profile.read_text(encoding="utf-8"))
            shutil.rmtree(profile.parent, ignore_errors=True)
        if not placed[self._provider.name]:
            raise DeviceError(
                f"{self.path}: {self._provider.name} was asked for, and takes none of the {placed.total()} nodes: "
                "all would be computed on the CPU",
                "`edgecnn check` says what TensorRT says to the graph; --provider cpu is what it would be",
            )
        return placed


def nodes_in_profile(text: str) -> Counter[str]:
    """How many nodes each provider had, in a profile that ONNX Runtime has written of one run or of several."""
    events = [
        event
        for event in parse_json(text, unique=False)
        if event.get("cat") == "Node" and "provider" in event.get("args", {})
    ]
    nodes = {(event["name"], event["args"].get("node_index")): event["args"]["provider"] for event in events}
    return Counter(nodes.values())
