"""What a backend offers, for either flavor of TensorRT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.backends.trt.flavor import Flavor, flavor_of
from edgecnn.errors import BackendError, EdgecnnError
from edgecnn.results.device import Device

if TYPE_CHECKING:
    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.backends import BuildOptions, Opinion
    from edgecnn.backends.trt.engine import TrtSession
    from edgecnn.results.build_routes import Knob
    from edgecnn.session import Session


class TrtBackend:
    """The functions of `edgecnn.backends.Backend`, bound to a flavor."""

    def __init__(self, flavor: Flavor) -> None:
        self._flavor = flavor

    def recognizes(self, path: Path, first_bytes: bytes) -> bool:
        """Whether a file is a plan of this flavor, by its magic; TensorRT also knows one that is damaged or has a
        prefix by its name."""
        found = flavor_of(first_bytes)
        return found is self._flavor or (
            found is None and self._flavor.needs_gpu and path.suffix in self._flavor.suffixes
        )

    def engine_from_onnx(self, graph: Path, output: Path, options: BuildOptions) -> Sidecar:
        """Build the plan `output` from an ONNX file, with its sidecar."""
        from edgecnn.backends.trt import build

        return build.engine_from_onnx(self._flavor, graph, output, options)

    def open_engine(self, path: Path, threads: int | None = None, trust: bool = False) -> TrtSession:
        """Load a plan that its sidecar vouches for, or any with `trust`; `threads` is ONNX Runtime's and means
        nothing."""
        from edgecnn.backends.trt.engine import TrtSession

        return TrtSession(path, trust)

    def build_watched(
        self, engine: Path, graph: Path, tensors: Sequence[str] | None, threads: int | None = None
    ) -> Session | None:
        """A build like `engine` that gives `tensors` of its graph too; with None those that are left unfused."""
        from edgecnn.backends.trt import watched

        return watched.build_watched(self._flavor, engine, graph, tensors)

    def device(self, threads: int | None = None) -> Device:
        """This machine's GPU and TensorRT, as they stand in a sidecar; without a GPU, where none is needed to build,
        the version alone."""
        from edgecnn.backends._cuda import load_cuda
        from edgecnn.backends.trt.library import device_facts, load_tensorrt

        tensorrt = load_tensorrt(self._flavor).__version__
        try:
            return device_facts(load_cuda(), tensorrt)
        except BackendError:
            if self._flavor.needs_gpu:
                raise
            return Device(tensorrt=tensorrt)

    def tools(self) -> dict[str, str]:
        """The version of TensorRT; raises as `load_tensorrt` does."""
        from edgecnn.backends.trt.library import load_tensorrt

        return {self._flavor.module: load_tensorrt(self._flavor).__version__}

    def precision_of(self, path: Path) -> str:
        """A plan does not say what was asked for: only its sidecar does."""
        return ""

    def describe(self, path: Path) -> dict[str, object]:
        """The header of a plan, and what its sidecar says."""
        from edgecnn.backends.trt.plan import describe_plan

        return describe_plan(path)

    def check_graph(self, path: Path, build: bool = True) -> Opinion | None:
        """What NVIDIA's parser and, with `build`, builder say to a graph; raises as `load_tensorrt` does."""
        from edgecnn.backends.trt.check import opinion_of

        return opinion_of(self._flavor, path, build)

    def build_knobs(self) -> tuple[Knob, ...]:
        """Those of the builder that is here, TensorRT 11.1 or later; raises as `load_tensorrt` does, and `BackendError`
        where no builder can be made."""
        from edgecnn.backends.trt.build import make_builder
        from edgecnn.backends.trt.library import load_tensorrt, recording
        from edgecnn.backends.trt.routes import read_knobs

        trt = load_tensorrt(self._flavor)
        with recording(trt) as messages:
            return read_knobs(trt, make_builder(trt, None, messages).create_builder_config())

    def reproducing_script(self) -> str:
        """A program with NVIDIA's package alone that asks of the graph.onnx beside it what `check_graph` asks."""
        from edgecnn.backends.trt.script import reproducing_script

        return reproducing_script(self._flavor)

    def free_memory_bytes(self) -> int | None:
        """Of the GPU; where it shares the host's, what Linux has left. The CUDA context is there afterwards."""
        from edgecnn.backends._cuda import free_memory_bytes
        from edgecnn.backends.trt.library import load_tensorrt

        load_tensorrt(self._flavor)
        return free_memory_bytes()

    def machine_facts(self) -> dict[str, str]:
        """The version of TensorRT, and the GPU with its free memory and whether it runs a kernel; "none" with the
        reason where there is none."""
        found = {self._flavor.module: _fact(lambda: self.tools()[self._flavor.module])}
        return {"gpu": _fact(_gpu), "gpu_kernel": _fact(_kernel), **found} if self._flavor.needs_gpu else found

    def why_not(self) -> str:
        """Why plans are not built and run here: TensorRT, the GPU, one kernel on it, and the library that its builder
        needs for it; "" where all of them are here."""
        from edgecnn.backends._cuda import load_cuda
        from edgecnn.backends.trt.library import builder_resource, load_tensorrt

        try:
            load_tensorrt(self._flavor)
        except EdgecnnError as exc:
            return exc.reason
        try:
            _kernel()
            capability = load_cuda().properties().compute_capability
            if self._flavor.needs_gpu:
                builder_resource(capability)
            elif not self._flavor.runs_on(capability):
                return f"plans are built here, and not run: it takes no GPU of compute capability {capability}"
        except EdgecnnError as exc:
            builds = "" if self._flavor.needs_gpu else "plans are built here, and not run: "
            return builds + exc.reason
        return ""


def _kernel() -> str:
    from edgecnn.backends._cuda import load_cuda
    from edgecnn.backends._kernel import launch_one_kernel

    launch_one_kernel(load_cuda())
    return "one was run"


def _gpu() -> str:
    from edgecnn.backends._cuda import load_cuda

    cuda = load_cuda()
    gpu = cuda.properties()
    free, total = cuda.memory_info()
    memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    by = f"{cuda.name} ({cuda.note})" if cuda.note else cuda.name
    return f"{gpu.name}, compute capability {gpu.compute_capability}, {memory}, CUDA {gpu.cuda}, by {by}"


def _fact(read: Callable[[], str]) -> str:
    try:
        return read()
    except EdgecnnError as exc:
        return f"none: {exc.reason}"
