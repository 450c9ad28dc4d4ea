"""Time per layer, by TensorRT's profiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecnn.backends._cuda import Cuda
from edgecnn.backends.trt.library import Message, failure
from edgecnn.results.layers import LayerTimes


def profiled_layers(
    trt: Any, cuda: Cuda, context: Any, stream: Any, queries: int, messages: Sequence[Message]
) -> list[LayerTimes]:
    """Name and milliseconds of each layer, in the order told, for each of `queries` runs, after one more, of a context
    with its shapes and addresses.

    The layers are reported by hand after each run (`enqueue_emits_profile` off), so that nothing waits in between.
    """
    runs: list[LayerTimes] = []

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            runs[-1].append((layer_name, ms))

    def run() -> None:
        if not context.execute_async_v3(cuda.handle(stream)):
            raise failure("TensorRT could not run a batch for profiling", messages, "run it without the profile")
        cuda.synchronize_stream(stream)

    run()  # the first of a context also sets it up
    profiler = Profiler()  # the context holds no reference to it
    context.profiler = profiler
    context.enqueue_emits_profile = False
    for _ in range(queries):
        run()
        runs.append([])
        if not context.report_to_profiler():
            raise failure("TensorRT reports no layer times", messages, "run it without the profile")
    return runs
