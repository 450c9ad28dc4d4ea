"""TensorRT 10.3 to 11.x: build, load, run, time and inspect engines. All its version branches live in this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.errors import EdgecnnError
from edgecnn.results.device import Device

if TYPE_CHECKING:
    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.backends import BuildOptions
    from edgecnn.backends.trt.engine import TrtSession

NAME, PROVIDER = "trt", "TensorRT"
SUFFIXES = (".plan", ".engine")
DEFAULT_TARGET = "gpu"


def recognizes(path: Path, first_bytes: bytes) -> bool:
    """Whether a file is a plan, by its magic or, for one that is damaged or has a prefix, by its name."""
    return first_bytes.startswith(b"ftrt") or path.suffix in SUFFIXES


def engine_from_onnx(graph: Path, output: Path, options: BuildOptions) -> Sidecar:
    """Build the plan `output` from an ONNX file for this machine's GPU, with its sidecar."""
    from edgecnn.backends.trt import build

    return build.engine_from_onnx(graph, output, options)


def open_engine(path: Path, threads: int | None = None, trust: bool = False) -> TrtSession:
    """Load a plan that its sidecar vouches for, or any with `trust`; `threads` is ONNX Runtime's and means nothing."""
    from edgecnn.backends.trt.engine import TrtSession

    return TrtSession(path, trust)


def device(threads: int | None = None) -> Device:
    """This machine's GPU and TensorRT, as they stand in a sidecar."""
    from edgecnn.backends._cuda import load_cuda
    from edgecnn.backends.trt.library import device_facts, load_tensorrt

    tensorrt = load_tensorrt().__version__
    return device_facts(load_cuda(), tensorrt)


def tools() -> dict[str, str]:
    """The version of TensorRT; raises as `load_tensorrt` does."""
    from edgecnn.backends.trt.library import load_tensorrt

    return {"tensorrt": load_tensorrt().__version__}


def precision_of(path: Path) -> str:
    """A plan does not say what was asked for: only its sidecar does."""
    return ""


def describe(path: Path) -> dict[str, object]:
    """The header of a plan, and what its sidecar says."""
    from edgecnn.backends.trt.plan import describe_plan

    return describe_plan(path)


def machine_facts() -> dict[str, str]:
    """The GPU with its free memory, and the version of TensorRT; "none" with the reason where there is none."""
    return {"gpu": _fact(_gpu), "tensorrt": _fact(lambda: tools()["tensorrt"])}


def _gpu() -> str:
    from edgecnn.backends._cuda import load_cuda

    cuda = load_cuda()
    gpu = cuda.properties()
    free, total = cuda.memory_info()
    memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    return f"{gpu.name}, compute capability {gpu.compute_capability}, {memory}, CUDA {gpu.cuda}, by {cuda.name}"


def _fact(read: Callable[[], str]) -> str:
    try:
        return read()
    except EdgecnnError as exc:
        return f"none: {exc.message}"
