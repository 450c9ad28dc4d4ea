"""What TensorRT-RTX alone has."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.write import write_bytes
from edgecnn.backends.trt.library import Message, failure
from edgecnn.errors import BackendError, WriteError
from edgecnn.output import say
from edgecnn.targets import version_tuple


def set_compute_capabilities(trt: Any, config: Any, capabilities: Sequence[str], messages: Sequence[Message]) -> None:
    """Build for these GPUs and no others ("7.5", "8.9"); raises `BackendError` for one that is unknown or refused."""
    known = {
        _capability_of(name): value for name, value in trt.ComputeCapability.__members__.items() if name[2:].isdigit()
    }
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        hint = f"it builds for {', '.join(sorted(known, key=version_tuple))}"
        if capability not in known:
            raise BackendError(f"TensorRT-RTX {trt.__version__} knows no compute capability {capability}", hint)
        if not config.set_compute_capability(known[capability], index):
            raise failure(f"TensorRT-RTX refuses compute capability {capability}", messages, hint)


class RtxRuntime:
    """How the contexts of an engine are made and run: compiled for this GPU at once, for the very shape that is set
    (EAGER; by default that happens behind the first queries), kept on disk, and replayed as CUDA graphs by TensorRT-RTX
    itself ("Working with Runtime Cache" and "Working with RTX CUDA Graphs" in its documentation).

    `config` is what a context is made with; `jit_ms` is the time that compiling has taken so far.
    """

    def __init__(self, trt: Any, engine: Any, path: Path, messages: Sequence[Message]) -> None:
        runtime_config = engine.create_runtime_config()
        if runtime_config is None:
            raise failure("TensorRT-RTX makes no runtime configuration", messages, "report it with its version")
        runtime_config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
        runtime_cache = runtime_config.create_runtime_cache()
        self._path, self._read = path, _content_of(path)
        taken = bool(self._read) and runtime_cache.deserialize(self._read)
        if not runtime_config.set_runtime_cache(runtime_cache):
            raise failure("TensorRT-RTX takes no runtime cache", messages, "report it with TensorRT-RTX's version")
        kept = f"{len(self._read) / 1e3:.0f} kB" if taken else "new"
        if self._read and not taken:
            kept = "TensorRT-RTX does not take it; it is left out and made anew"
        say(f"runtime cache {path}: {kept}")
        self.config, self._cache, self.jit_ms = runtime_config, runtime_cache, 0.0

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """The block makes a context or runs it for the first time: its time is counted as compiling."""
        start = time.perf_counter()
        yield
        self.jit_ms += 1000 * (time.perf_counter() - start)

    def replays(self, context: Any, stream: int) -> bool:
        """Whether a context that has run is replayed as a CUDA graph on this stream."""
        return bool(context.is_stream_capturable(stream))

    def save(self) -> None:
        """Keep what was compiled; where that cannot be written it is said, and compiled again at the next start."""
        held = self._cache.serialize()
        content = b"" if held is None else bytes(held)
        if content and content != self._read:
            try:
                write_bytes(self._path, content)
            except WriteError as exc:
                say(f"runtime cache: {exc.message}; the plan is compiled again at the next start")


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _capability_of(name: str) -> str:
    """ "8.6" of "SM86"."""
    return f"{name[2:-1]}.{name[-1]}"
