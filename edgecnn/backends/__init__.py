"""One file or folder per runtime, found by its name; a leading underscore marks a helper.

Each backend module offers

    engine_from_onnx(graph, output, options) -> Sidecar    builds `output` from an ONNX file, with sidecar
    open_engine(path, threads, trust) -> Session           loads an engine that its sidecar vouches for
    device(threads) -> dict                                what the engine runs on, as it stands in a sidecar
    SUFFIX                                                  of its engine files
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.errors import ArtifactError, BackendError, nearest
from edgecnn.recipe.schema import BatchSettings
from edgecnn.session import Session

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]


@dataclass(frozen=True)
class BuildOptions:
    """What an engine is built for. `threads` matters on a CPU alone; None leaves the choice to the runtime.

    `recipe` and `fields` are copied into the engine's sidecar. The rest is TensorRT's: the workspace limit (None: from
    the memory that is free), the builder's optimisation level (0-5; None: its default), on which other GPUs and newer
    TensorRTs the plan shall run too (each costs speed), and the timing cache's file (None: one per TensorRT, GPU and
    driver).
    """

    target: str = "cpu"
    batch: BatchSettings = field(default_factory=BatchSettings)
    threads: int | None = None
    workspace_mb: int | None = None
    optimisation_level: int | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    timing_cache: Path | None = None
    recipe: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def hardware_compatibility_from_text(text: str) -> HardwareCompatibility:
    """The level named `text`; raises `BackendError` with the nearest names."""
    known = get_args(HardwareCompatibility)
    if text not in known:
        raise BackendError(f"no hardware compatibility level {text!r}", nearest(text, known) or ", ".join(known))
    return cast(HardwareCompatibility, text)


class Backend(Protocol):
    """What a backend module offers."""

    SUFFIX: str

    def engine_from_onnx(self, graph: Path, output: Path, options: BuildOptions) -> Sidecar: ...

    def open_engine(self, path: Path, threads: int | None = None, trust: bool = False) -> Session: ...

    def device(self, threads: int | None = None) -> dict[str, Any]: ...


def backend_names() -> list[str]:
    """Every backend in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load_backend(name: str) -> Backend:
    """The backend module `name`; raises `BackendError` with the nearest names."""
    known = backend_names()
    if name not in known:
        raise BackendError(f"no backend {name!r}", nearest(name, known) or f"backends: {', '.join(known)}")
    return cast(Backend, importlib.import_module(f"edgecnn.backends.{name}"))


def open_engine(path: Path, threads: int | None = None, trust: bool = False) -> Session:
    """Open an engine with the backend its suffix names (`.plan`, `.engine`: trt; `.onnx`: ort).

    Raises `ArtifactError` for another file, `GraphError` for a graph that was exported in training mode.
    """
    suffixes = {".onnx": "ort", ".plan": "trt", ".engine": "trt"}
    if path.suffix not in suffixes:
        raise ArtifactError(
            f"{path}: {path.suffix or 'no suffix'} is not that of an engine", f"engines end in {', '.join(suffixes)}"
        )
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", "build it with `edgecnn build`, or check the path")
    if path.suffix == ".onnx":
        require_inference_graph(path)
    return load_backend(suffixes[path.suffix]).open_engine(path, threads, trust)


def require_inference_graph(path: Path) -> None:
    """Raise `GraphError` when the graph in `path` was exported in training mode.

    A device may have a runtime alone, without onnx: there, whoever imported or exported the graph has looked.
    """
    if importlib.util.find_spec("onnx") is not None:
        from edgecnn.backends._training_mode import require_inference_file

        require_inference_file(path)
