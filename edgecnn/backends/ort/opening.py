"""Sessions on a GPU: ONNX Runtime falls back to the CPU without an error, so what it computes on is looked at.

TF32 is off: by its own option for the CUDA provider, and for TensorRT, whose providers have none, by NVIDIA's variable.
Compiled engines are kept under `$XDG_CACHE_HOME/edgecnn/ort`, by the sha256 of the graph: the TensorRT provider's own
names tell neither other weights nor other shapes (microsoft/onnxruntime#6455, #32254).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import sha256_of, tool_versions
from edgecnn.backends._cuda import GpuProperties
from edgecnn.backends._onnxruntime import load_onnxruntime, one_line, onnxruntime_errors
from edgecnn.backends.ort.provider import (
    CUDA,
    PLUGIN,
    PLUGIN_PACKAGES,
    RTX,
    RUNTIME_PACKAGES,
    TENSORRT,
    TENSORRT_PACKAGES,
    Provider,
)
from edgecnn.errors import BackendError, DeviceError, MissingPackageError, WriteError
from edgecnn.machine.gpu import driver_version
from edgecnn.machine.jetson import board_name
from edgecnn.machine.packages import missing_package
from edgecnn.recipe.schema import BatchSettings

UNLOADED = re.compile(r"with error: (.+)")
COLOR = re.compile(r"\x1b\[[\d;]*m")
WARNING, FATAL = 2, 4  # severities of ONNX Runtime's log
PLACEMENT = "session.record_ep_graph_assignment_info"
NOT_ON_A_JETSON = (
    "the package index has no onnxruntime-gpu for a Jetson: build the engine with its own TensorRT, --backend trt"
)


def load_provider(provider: Provider) -> Any:
    """The package `onnxruntime`, where it has `provider` and what that needs; raises `BackendError` that says what is
    missing."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # before NVIDIA's libraries are loaded
    try:
        runtime = load_onnxruntime()
    except MissingPackageError as exc:
        if board_name():
            raise BackendError(exc.message, NOT_ON_A_JETSON) from exc
        raise
    if provider is RTX:
        _register_plugin(runtime)
    elif provider.name not in runtime.get_available_providers():
        raise _without(runtime, provider)
    if provider is TENSORRT:
        _require_loadable_tensorrt(runtime)
    if hasattr(runtime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; the session says it again
            runtime.preload_dlls()
    return runtime


def open_gpu_session(
    provider: Provider, graph: bytes | Path, stream: int, gpu: GpuProperties, shapes: Mapping[str, str], *, exact: bool
) -> Any:
    """A session of `graph` on `provider` alone, computing on the CUDA stream `stream`; `shapes` are "min", "opt" and
    "max" as the providers that compile write them, and `exact` keeps Q/DQ nodes as they are.

    Raises `DeviceError` where ONNX Runtime computes on another provider, `BackendError` where it refuses the graph.
    """
    runtime = load_provider(provider)
    options = runtime.SessionOptions()
    options.log_severity_level = FATAL
    options.add_session_config_entry(PLACEMENT, "1")
    if exact:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if isinstance(graph, Path) and not tells_placement(runtime):
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(tempfile.mkdtemp(prefix="edgecnn-")) / "placement")
    of_provider = _provider_options(provider, runtime, graph, stream, gpu, shapes)
    source = graph if isinstance(graph, bytes) else str(graph)
    where = graph if isinstance(graph, Path) else "one node"
    if provider is RTX:
        devices = [d for d in runtime.get_ep_devices() if d.ep_name == provider.name]
        if not devices:
            raise DeviceError(
                f"{where}: {provider.name} sees no GPU that it takes; here is {gpu.name} ({gpu.compute_capability})",
                "it is for desktop RTX GPUs, Ampere and later, with a driver for CUDA 13; or --provider cuda",
            )
        options.add_provider_for_devices(devices[:1], of_provider)
    providers = None if provider is RTX else [(provider.name, of_provider)]
    runtime.set_default_logger_severity(WARNING)  # what could not be loaded is said in its log alone
    try:
        with (
            native_stderr() as said,
            onnxruntime_errors(where, f"refuses it on {provider.name}", _hint(provider)),
        ):
            session = runtime.InferenceSession(source, options, providers=providers, enable_fallback=0)
            found = session.get_providers()
    except BackendError as exc:
        exc.message += f" ({why})" if (why := unloaded_in(said())) else ""
        raise
    if found[:1] != [provider.name]:
        why = unloaded_in(said()) or _last_line(said()) or "it does not say why"
        raise DeviceError(
            f"{where}: {provider.name} was asked for, and ONNX Runtime {runtime.__version__} would compute on "
            f"{', '.join(found)} instead: {why}",
            _hint(provider),
        )
    runtime.set_default_logger_severity(FATAL)  # cuDNN logs an error for each plan that it tries in vain
    return session


def tells_placement(runtime: Any) -> bool:
    """Whether sessions of this ONNX Runtime can be asked which provider has which node (1.24 and later)."""
    return hasattr(runtime.InferenceSession, "get_provider_graph_assignment_info")


def unloaded_in(log: str) -> str:
    """Why a library could not be loaded, in the words of the system's loader; "" where ONNX Runtime's log has none."""
    found = UNLOADED.search(COLOR.sub("", log))
    return found[1].strip()[:300] if found else ""


def _last_line(log: str) -> str:
    return " ".join([line.strip() for line in COLOR.sub("", log).splitlines() if line.strip()][-1:])[:300]


@contextlib.contextmanager
def native_stderr() -> Iterator[Callable[[], str]]:
    """What libraries write to the process's standard error meanwhile, kept from it: a function that gives the text."""
    said = ""
    sys.stderr.flush()
    outer = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)

        def text() -> str:
            kept.seek(0)
            return kept.read().decode(errors="replace")

        try:
            yield lambda: said or text()
        finally:
            sys.stderr.flush()
            os.dup2(outer, 2)
            os.close(outer)
            said = text()


def _hint(provider: Provider) -> str:
    if provider is RTX:
        return f"pip install 'edgecnn[{provider.extra}]'; `edgecnn doctor` says which ways work here"
    libraries = "CUDA and cuDNN" if provider is CUDA else "CUDA, cuDNN and TensorRT 10"
    return (
        f"it needs {libraries} of the versions that this wheel is for: pip install 'edgecnn[{provider.extra}]'; "
        "`edgecnn doctor` says which ways work here"
    )


def _without(runtime: Any, provider: Provider) -> BackendError:
    has = ", ".join(runtime.get_available_providers())
    message = f"this ONNX Runtime ({_installed(runtime)}) has no {provider.name}, but {has}"
    if board_name():
        return BackendError(message, NOT_ON_A_JETSON)
    return BackendError(
        message,
        "its two packages install the same files: pip uninstall onnxruntime, then "
        f"pip install 'edgecnn[{provider.extra}]'",
    )


def _installed(runtime: Any) -> str:
    found = tool_versions(*RUNTIME_PACKAGES)
    return " and ".join(f"{name} {version}" for name, version in found.items()) or str(runtime.__version__)


def _require_loadable_tensorrt(runtime: Any) -> None:
    """The TensorRT that the provider is linked with, loaded; raises `BackendError` that names the two versions."""
    needed = _needed_tensorrt(runtime)
    with contextlib.suppress(ImportError, OSError):
        module = importlib.import_module("tensorrt")  # which loads its libraries, wherever pip put them
        here = str(module.__version__)
        if here.split(".")[0] == needed:
            return
        raise BackendError(
            f"{TENSORRT.name} of {_installed(runtime)} loads libnvinfer.so.{needed}, and here is TensorRT {here}",
            f"pip install 'tensorrt>={needed},<{int(needed) + 1}'; or --backend trt, which takes both",
        )
    with contextlib.suppress(OSError):
        ctypes.CDLL(f"libnvinfer.so.{needed}")
        return
    if not tool_versions(*TENSORRT_PACKAGES):
        raise missing_package("tensorrt", f"{TENSORRT.name} (libnvinfer.so.{needed})", TENSORRT.extra)


def _needed_tensorrt(runtime: Any) -> str:
    """The major version in the name of the library that the provider is linked with."""
    library = Path(runtime.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    found = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes()) if library.is_file() else None
    return found[1].decode() if found else "10"


def _register_plugin(runtime: Any) -> None:
    """Make the provider of the plugin's wheel known; raises `BackendError` where the wheel and ONNX Runtime do not fit
    each other or this machine."""
    try:
        plugin = importlib.import_module(PLUGIN)
    except ModuleNotFoundError as exc:
        raise missing_package(PLUGIN_PACKAGES[0], f"ONNX Runtime's {RTX.name}", RTX.extra) from exc
    versions = " and ".join(f"{n} {v}" for n, v in tool_versions(*RUNTIME_PACKAGES, *PLUGIN_PACKAGES).items())
    hint = f"pip install -U 'edgecnn[{RTX.extra}]'; its libraries need NVIDIA's driver for CUDA 13"
    if not hasattr(runtime, "register_execution_provider_library"):
        raise BackendError(f"{versions}: this ONNX Runtime takes no plugins (1.24 is the oldest that does)", hint)
    if any(device.ep_name == RTX.name for device in runtime.get_ep_devices()):
        return
    try:
        with native_stderr():
            runtime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as exc:  # its exceptions have no common base
        if "already registered" in str(exc).lower():
            return
        said = unloaded_in(str(exc)) or one_line(exc)
        raise DeviceError(f"the plugin does not fit ({versions}): {said}", hint) from exc


def _provider_options(
    provider: Provider, runtime: Any, graph: bytes | Path, stream: int, gpu: GpuProperties, shapes: Mapping[str, str]
) -> dict[str, str]:
    """What the provider is told; all of it text, as plugins want it."""
    if provider is CUDA:
        return {"device_id": "0", "use_tf32": "0", "user_compute_stream": str(stream)}
    own = {"device_id": "0", "user_compute_stream": str(stream)}
    kept = str(_kept_engines(provider, runtime, graph, gpu, shapes))
    if provider is RTX:
        profile = {f"nv_profile_{bound}_shapes": text for bound, text in shapes.items()}
        return {**own, "has_user_compute_stream": "1", **profile, "nv_runtime_cache_path": kept}
    caches = {f"trt_{what}_cache_{key}": value for what in ("engine", "timing") for key, value in _cache(kept)}
    return {**own, **{f"trt_profile_{bound}_shapes": text for bound, text in shapes.items()}, **caches}


def _cache(folder: str) -> tuple[tuple[str, str], ...]:
    return ("enable", "True"), ("path", folder)


def _kept_engines(
    provider: Provider, runtime: Any, graph: bytes | Path, gpu: GpuProperties, shapes: Mapping[str, str]
) -> Path:
    """The folder of the engines that are compiled of a graph, for nobody else to write to: they are native code."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecnn" / "ort"
    digest = sha256_of(graph)[:16] if isinstance(graph, Path) else "one-node"
    versions = tool_versions(*provider.packages)
    keys = (provider.backend, *versions.values(), gpu.name, gpu.compute_capability, driver_version(), *shapes.values())
    name = re.sub(r"[^\w.]+", "_", "-".join(str(key) for key in (*keys, runtime.__version__) if key))
    folder = base / digest / name[:200]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise WriteError(
            f"{folder}: cannot be made: {exc.strerror}", "set XDG_CACHE_HOME to a folder of yours"
        ) from exc
    return folder


def shapes_of(name: str, shape: tuple[int | None, ...], batch: BatchSettings | None) -> dict[str, str]:
    """The shapes of an input as the providers that compile write them ("input:1x3x224x224"), each bound of the batch;
    {} where nothing is left open."""
    if batch is None or shape[0] is not None:
        return {}
    sizes = {"min": batch.min, "opt": batch.opt, "max": batch.max}
    return {bound: f"{name}:{'x'.join(str(n) for n in (size, *shape[1:]))}" for bound, size in sizes.items()}
