"""The work of one enqueue as a CUDA graph, as trtexec records it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecnn.backends._cuda import Cuda
from edgecnn.errors import DeviceError


def recorded_graph(cuda: Cuda, stream: Any, enqueue: Callable[[], bool]) -> tuple[Any, str]:
    """A graph of what `enqueue` queues on an idle stream, after it was enqueued once in the ordinary way; or None, and
    why there is none."""
    cuda.begin_capture(stream)
    queued, graph, why = enqueue(), None, ""
    try:
        graph = cuda.end_capture(stream)
    except DeviceError as exc:
        why = exc.message
    if not queued:
        why = why or "TensorRT cannot enqueue this engine while recording"
        if graph is not None:
            cuda.destroy_graph(graph)
            graph = None
    if graph is None:
        cuda.clear_error()
    return graph, why
