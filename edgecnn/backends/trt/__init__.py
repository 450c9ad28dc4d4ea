"""TensorRT 10.3 to 11.x: build, load, run, time and inspect engines. All its version branches live in this folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
