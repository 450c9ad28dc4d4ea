"""The Python package of a TensorRT: import it, bound its version, keep its messages, and name the device it runs on.

TensorRT keeps the first logger that it is given in a process, so there is one here, and callers record from it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecnn.backends._cuda import Cuda
from edgecnn.backends.trt.flavor import TENSORRT, Flavor
from edgecnn.errors import BackendError, DeviceError, EdgecnnError
from edgecnn.machine.gpu import driver_version
from edgecnn.machine.jetson import board_name
from edgecnn.machine.packages import missing_package
from edgecnn.machine.power import power_mode
from edgecnn.results.device import Device
from edgecnn.targets import version_tuple

KEPT_MESSAGES = 2000
OUT_OF_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "failed_allocation", "memoryallocation")

RESOURCE = "libnvinfer_builder_resource"
SERVED_BY = {"87": ("86",)}  # an Orin under 10.16 loads the library of sm_86

Message = tuple[str, str]  # severity name, text


def load_tensorrt(flavor: Flavor = TENSORRT) -> Any:
    """The Python module of a flavor; raises `MissingPackageError` when it is absent, `BackendError` for one that is
    broken or of a version that is not supported."""
    try:
        module = importlib.import_module(flavor.module)
    except ModuleNotFoundError as exc:
        what = f"building and running {flavor.product} engines"
        raise missing_package(flavor.module, what, flavor.extra) from exc
    except (ImportError, OSError) as exc:
        raise BackendError(
            f"the package {flavor.module} is installed, but not its libraries: {exc}",
            f"install {flavor.product} from NVIDIA's index or with JetPack, and see that LD_LIBRARY_PATH finds it",
        ) from exc
    version = version_tuple(module.__version__)
    if version[:2] < flavor.oldest or version[0] > flavor.newest_major:
        raise BackendError(
            f"{flavor.product} {module.__version__} is not supported; {flavor.supported} are",
            "`edgecnn targets --jetpack` shows which JetPack carries which TensorRT",
        )
    return module


@functools.cache
def logger_for(trt: Any) -> Any:
    """The one logger of this process; `kept` is the list that it appends to, without the verbose ones."""

    class KeepingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: list[Message] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity != trt.ILogger.Severity.VERBOSE:
                del self.kept[: max(0, len(self.kept) + 1 - KEPT_MESSAGES)]  # what ends a call comes last
                self.kept.append((severity.name, msg))

    return KeepingLogger()


@contextlib.contextmanager
def recording(trt: Any) -> Iterator[list[Message]]:
    """TensorRT's messages of the block, as they come; those of a block within go to that one alone."""
    logger = logger_for(trt)
    outer, logger.kept = logger.kept, []
    try:
        yield logger.kept
    finally:
        logger.kept = outer


def text_of(read: Callable[[], str]) -> str:
    """What a getter of the bindings gives; names that a damaged file has as no text are shown as far as they are."""
    try:
        return str(read())
    except UnicodeDecodeError as exc:
        return bytes(exc.object).decode("utf-8", "replace")


def errors_in(messages: Sequence[Message], most: int = 3) -> str:
    """TensorRT's last error messages as one line; its last warning where there is none; "" when it said nothing."""
    found = [text for severity, text in messages if severity in ("ERROR", "INTERNAL_ERROR")]
    found = found or [text for severity, text in messages if severity == "WARNING"][-1:]
    return " | ".join(" ".join(text.split()) for text in found[-most:])


def warnings_in(messages: Sequence[Message]) -> list[str]:
    """TensorRT's warnings, each once, in order."""
    return list(dict.fromkeys(" ".join(text.split()) for severity, text in messages if severity == "WARNING"))


def failure(what: str, messages: Sequence[Message], hint: str) -> EdgecnnError:
    """The error for a call of TensorRT that answered None or False: `what` failed, and what its log says."""
    said = errors_in(messages) or "TensorRT said nothing about it"
    if any(word in said.lower() for word in OUT_OF_MEMORY):
        return DeviceError(
            f"{what}: out of memory: {said}",
            "free device memory, or lower the workspace, batch.max or the resolution",
        )
    return BackendError(f"{what}: {said}", hint)


def device_facts(cuda: Cuda, tensorrt: str) -> Device:
    """The device as it stands in a sidecar; nothing in it moves from run to run (clocks do, and are not here)."""
    gpu = cuda.properties()
    return Device(
        gpu_name=gpu.name,
        compute_capability=gpu.compute_capability,
        memory_gb=round(gpu.memory_bytes / 1e9, 1),
        multiprocessors=gpu.multiprocessors,
        board=board_name(),
        driver=driver_version(),
        cuda=gpu.cuda,
        power_mode=power_mode(),
        tensorrt=tensorrt,
    )


def builder_resource(compute_capability: str, maps: Path = Path("/proc/self/maps")) -> str:
    """The name of the library with the builder's kernels for a GPU, beside the TensorRT that this process has loaded.

    10.7 has one for all GPUs, 10.16 one for each architecture, which packages may leave out: the builder then cannot be
    made (OE4T/meta-tegra#2243). "" where it is not known where TensorRT lies. Raises
    `BackendError` where the one of this GPU is absent.
    """
    loaded = re.search(r"(/\S+)/libnvinfer\.so\.", maps.read_text(encoding="utf-8")) if maps.exists() else None
    if loaded is None:
        return ""
    here = {path.name.split(".so")[0] for path in Path(loaded[1]).glob(f"{RESOURCE}*.so.*")}
    digits = compute_capability.replace(".", "")
    wanted = [RESOURCE, *(f"{RESOURCE}_sm{n}" for n in (digits, *SERVED_BY.get(digits, ())))]
    if found := next((name for name in wanted if name in here), None):
        return found
    others = ", ".join(sorted(here)) or "none of its kind"
    raise BackendError(
        f"{loaded[1]}: TensorRT's builder lacks {RESOURCE}_sm{digits}, its kernels for this GPU; here is {others}",
        "install it from the packages of this TensorRT, or the whole of TensorRT again",
    )
