"""One file or folder per runtime, found by its name; a leading underscore marks a helper.

Each backend module offers

    engine_from_onnx(graph, output, options) -> Sidecar    builds `output` from an ONNX file, with sidecar
    open_engine(path, threads, trust) -> Session           loads an engine that its sidecar vouches for
    build_watched(engine, graph, tensors) -> Session | None  a build like it that gives inner tensors too
    device(threads) -> Device                               what the engine runs on, as it stands in a sidecar
    tools() -> dict                                         versions that an engine depends on; {} where none is here
    describe(path) -> dict                                  what `edgecnn inspect` prints of one of its files
    precision_of(path) -> str                               int8, fp16 or fp32 as the file holds it; "" where unknown
    free_memory_bytes() -> int | None                       what engines may take; None where that is the host's
    machine_facts() -> dict                                 what `edgecnn doctor` prints of the runtime and its device
    why_not() -> str                                        why its engines do not run here; "" where they do
    check_graph(path, build) -> Opinion | None              what the runtime says to a graph; None where it has no say
    build_knobs() -> tuple[Knob, ...]                       of which a build route is made; () where there is none
    reproducing_script() -> str                             asks the same of graph.onnx beside it, without edgecnn
    recognizes(path, first_bytes) -> bool                   whether a file is one of its engines
    SUFFIXES                                                of its engine files, the one that it writes first
    NATIVE                                                  whether they are code that may take its process down
    NAME, PROVIDER                                          of the module, and of the part of the runtime that computes
    DEFAULT_TARGET                                          what it builds for when none is named
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.artifact.signature import require_signature
from edgecnn.errors import ArtifactError, BackendError, nearest
from edgecnn.limits import require_regular

if TYPE_CHECKING:
    from edgecnn.recipe.schema import BatchSettings, HardwareCompatibility, OrtProvider
    from edgecnn.results.build_routes import BuildRoutes, Knob
    from edgecnn.results.device import Device
    from edgecnn.results.finding import Finding
    from edgecnn.session import Session


def _default_batch() -> BatchSettings:
    from edgecnn.recipe.schema import BatchSettings

    return BatchSettings()


@dataclass(frozen=True)
class Opinion:
    """What a runtime says to a graph, and `by` whom: the part of it that was asked, with its version.

    `failures` tell for each error how it fails: graphs that share one fail alike, whatever their names and sizes.
    """

    by: str
    findings: tuple[Finding, ...]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImplicitInt8:
    """The scale of each tensor, largest absolute value / 127, read from the file `source`."""

    scales: Mapping[str, float]
    source: Path


@dataclass(frozen=True)
class BuildOptions:
    """What an engine is built for. `threads` matters on a CPU alone; None leaves the choice to the runtime.

    `recipe` and `fields` are copied into the engine's sidecar. The rest is TensorRT's: the workspace limit (None: from
    the memory that is free), the builder's optimization level (0-5; None: its default), the build route ("-knob=value",
    separated by spaces; "": its default), on which other GPUs and newer
    TensorRTs the plan shall run too (each costs speed), and the timing cache's file (None: one per TensorRT, GPU and
    driver; `fresh_timings` uses none, and `locked` takes nothing but the cache and settings of the lock beside the
    plan). `compute_capabilities` ("8.6", "8.9") are TensorRT-RTX's: the GPUs that the plan is for (none: 8.0 and
    later). `implicit` asks TensorRT 10 for a weakly typed build with these scales.
    """

    target: str = "cpu"
    batch: BatchSettings = field(default_factory=_default_batch)
    threads: int | None = None
    workspace_mb: float | None = None
    optimization_level: int | None = None
    build_route: str = ""
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    timing_cache: Path | None = None
    fresh_timings: bool = False
    locked: bool = False
    compute_capabilities: tuple[str, ...] = ()
    implicit: ImplicitInt8 | None = None
    recipe: str = ""
    fields: dict[str, object] = field(default_factory=dict)


class Backend(Protocol):
    """What a backend module offers: all that the rest of edgecnn knows of it."""

    SUFFIXES: tuple[str, ...]
    NAME: str
    PROVIDER: str
    DEFAULT_TARGET: str
    NATIVE: bool

    def recognizes(self, path: Path, first_bytes: bytes) -> bool: ...

    def engine_from_onnx(self, graph: Path, output: Path, options: BuildOptions) -> Sidecar: ...

    def open_engine(self, path: Path, threads: int | None = None, trust: bool = False) -> Session: ...

    def build_watched(
        self, engine: Path, graph: Path, tensors: Sequence[str] | None, threads: int | None = None
    ) -> Session | None: ...

    def device(self, threads: int | None = None) -> Device: ...

    def tools(self) -> dict[str, str]: ...

    def describe(self, path: Path) -> dict[str, object]: ...

    def precision_of(self, path: Path) -> str: ...

    def machine_facts(self) -> dict[str, str]: ...

    def why_not(self) -> str: ...

    def free_memory_bytes(self) -> int | None: ...

    def check_graph(self, path: Path, build: bool = True) -> Opinion | None: ...

    def build_knobs(self) -> tuple[Knob, ...]: ...

    def reproducing_script(self) -> str: ...


def backend_names() -> list[str]:
    """Every backend in this folder; an underscore in a file's name is a dash in the backend's."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load_backend(name: str) -> Backend:
    """The backend module `name`; raises `BackendError` with the nearest names."""
    known = backend_names()
    if name not in known:
        raise BackendError(f"no backend {name!r}", nearest(name, known) or f"backends: {', '.join(known)}")
    return cast(Backend, importlib.import_module(f"edgecnn.backends.{name.replace('-', '_')}"))


def load_backends() -> list[Backend]:
    """Every backend module."""
    return [load_backend(name) for name in backend_names()]


def build_routes(target: str) -> BuildRoutes:
    """What the build routes of engines for a target are made of on this machine; raises as `Backend.build_knobs`."""
    from edgecnn.results.build_routes import BuildRoutes
    from edgecnn.targets import find_target

    module = load_backend(find_target(target).backend)
    version = next(iter(module.tools().values()), "")
    return BuildRoutes(target=target, by=f"{module.PROVIDER} {version}".strip(), knobs=module.build_knobs())


def recognizing_backend(path: Path) -> Backend | None:
    """The backend that recognizes a file as an engine, if one does; raises `ArtifactError` for what cannot be read."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            first_bytes = file.read(16)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file", "build it with `edgecnn build`, or check the path") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    return next((backend for backend in load_backends() if backend.recognizes(path, first_bytes)), None)


def backend_of(path: Path) -> Backend:
    """The backend that recognizes a file as an engine; raises `ArtifactError` for one that none does."""
    found = recognizing_backend(path)
    if found is None:
        suffixes = ", ".join(dict.fromkeys(suffix for backend in load_backends() for suffix in backend.SUFFIXES))
        raise ArtifactError(f"{path}: not an engine", f"engines end in {suffixes}")
    return found


def provider_backend(provider: OrtProvider, backend: str = "") -> str:
    """The backend of one of ONNX Runtime's providers; raises `BackendError` where another `backend` is named."""
    own = "ort" if provider == "cpu" else f"ort-{provider}"
    if backend not in ("", "ort", own):
        raise BackendError(
            f"--provider {provider} with --backend {backend}: providers are ONNX Runtime's",
            f"leave --backend {backend} out, or --provider {provider}",
        )
    return own


def backend_for(path: Path, provider: OrtProvider | None = None) -> Backend:
    """The backend that runs a file: for a graph that is no engine yet, that of a `provider`, where one is named.

    Raises `ArtifactError` for a file that is not an engine, or for one that was built for another.
    """
    found = backend_of(path)
    if provider is None or (wanted := provider_backend(provider)) == found.NAME:
        return found
    if path.suffix == ".onnx" and not (sidecar_path(path).exists() and read_sidecar(path).backend):
        return load_backend(wanted)
    raise ArtifactError(
        f"{path}: is an engine for {found.PROVIDER}, not for --provider {provider}",
        f"build one from its graph: edgecnn build GRAPH.onnx --provider {provider}",
    )


def open_engine(
    path: Path, threads: int | None = None, trust: bool = False, *, provider: OrtProvider | None = None
) -> Session:
    """Open an engine with the backend that recognizes it, or a graph with that of a `provider`.

    Raises `ArtifactError` for another file, for one without a sidecar where signatures are demanded, and for one that
    gives features in place of classes; `GraphError` for a graph that was exported in training mode.
    """
    require_signature(sidecar_path(path))
    if sidecar_path(path).exists():
        read_sidecar(path).require_classes(path)
    return open_with_any_outputs(path, threads, trust, provider=provider)


def open_with_any_outputs(
    path: Path, threads: int | None = None, trust: bool = False, *, provider: OrtProvider | None = None
) -> Session:
    """`open_engine`, of one that gives features too."""
    require_signature(sidecar_path(path))
    return backend_for(path, provider).open_engine(path, threads, trust)


def require_inference_graph(path: Path) -> None:
    """Raise `GraphError` when the graph in `path` was exported in training mode.

    A device may have a runtime alone, without onnx: there, whoever imported or exported the graph has looked.
    """
    if importlib.util.find_spec("onnx") is not None:
        from edgecnn.backends._training_mode import require_inference_file

        require_inference_file(path)
