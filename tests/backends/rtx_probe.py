"""Run by test_trt_rtx_runtime.py in a process of its own: what TensorRT-RTX alone has, called on objects of its real
bindings that were never initialised. Arguments are checked before a call is made: one that is right crashes in C++, or
is carried out, and one that is wrong is a TypeError. Prints what came out otherwise.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from typing import Any

import tensorrt_rtx as trt


def is_refused(call: Callable[[], Any]) -> bool:
    """Whether a call is a TypeError about its arguments; tried in a child process."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            call()
        except (TypeError, AttributeError):
            os._exit(3)
        except BaseException:  # noqa: BLE001 - whatever came out of C++
            os._exit(0)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def bare(name: str) -> Any:
    """An object that was never initialised."""
    kind = getattr(trt, name)
    return kind.__new__(kind)


def setting(attribute: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(bare("IRuntimeConfig"), attribute, value)


graphs, shapes = trt.CudaGraphStrategy, trt.DynamicShapesKernelSpecializationStrategy
managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
right = {
    "create_runtime_config": lambda: bare("ICudaEngine").create_runtime_config(),
    "allocation": lambda: bare("IRuntimeConfig").set_execution_context_allocation_strategy(managed),
    "graphs": setting("cuda_graph_strategy", graphs.WHOLE_GRAPH_CAPTURE),
    "shapes": setting("dynamic_shapes_kernel_specialization_strategy", shapes.EAGER),
    "create_runtime_cache": lambda: bare("IRuntimeConfig").create_runtime_cache(),
    "set_runtime_cache": lambda: bare("IRuntimeConfig").set_runtime_cache(bare("IRuntimeCache")),
    "deserialize": lambda: bare("IRuntimeCache").deserialize(b"content"),
    "serialize": lambda: bare("IRuntimeCache").serialize(),
    "context": lambda: bare("ICudaEngine").create_execution_context(bare("IRuntimeConfig")),
    "context without": lambda: bare("ICudaEngine").create_execution_context(managed),
    "set_device_memory": lambda: bare("IExecutionContext").set_device_memory(0x7F0012345600, 1 << 34),
    "is_stream_capturable": lambda: bare("IExecutionContext").is_stream_capturable(0x55D012345678),
}
wrong = {
    "graphs by name": setting("cuda_graph_strategy", "WHOLE_GRAPH_CAPTURE"),
    "a strategy of another kind": setting("cuda_graph_strategy", managed),
    "a cache that is bytes": lambda: bare("IRuntimeConfig").set_runtime_cache(b"content"),
    "a cache from text": lambda: bare("IRuntimeCache").deserialize("content"),
    "a context by a cache": lambda: bare("ICudaEngine").create_execution_context(bare("IRuntimeCache")),
}
for what, call in right.items():
    if is_refused(call):
        print(f"refused: {what}")
for what, call in wrong.items():
    if not is_refused(call):
        print(f"taken: {what}")
