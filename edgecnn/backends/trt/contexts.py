"""Execution contexts of an engine, and the device memory in which they compute.

A context of TensorRT's default kind takes memory of its own for the largest shape of the profile (kSTATIC). Here the
memory is given to them (kUSER_MANAGED): contexts that never run at the same time share one block, those of several
streams have a block each, and a context that only tells shapes has none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgecnn.backends._cuda import Cuda
from edgecnn.backends.trt.library import Message, failure
from edgecnn.backends.trt.profiles import select_profile


@dataclass(frozen=True)
class Block:
    """Device memory in which one context at a time computes; of 0 bytes for an engine that needs none."""

    address: int
    nbytes: int


def allocate_block(cuda: Cuda, engine: Any, opening: contextlib.ExitStack) -> Block:
    """Memory for the largest shape of any profile, freed with `opening`; raises `DeviceError` where there is none."""
    nbytes = int(engine.device_memory_size_v2)
    if not nbytes:
        return Block(0, 0)
    address = cuda.malloc(nbytes)
    opening.callback(cuda.free, address)
    return Block(address, nbytes)


def shaped_context(
    trt: Any,
    engine: Any,
    name: str,
    shape: tuple[int, ...],
    messages: Sequence[Message],
    block: Block | None = None,
    runtime_config: Any = None,
) -> Any:
    """An execution context with the shape of the input `name` set, which runs in `block` and without one not at all.

    Of several streams that compute at the same time the contexts of each need a block of their own. `runtime_config` is
    TensorRT-RTX's. Raises with TensorRT's messages where it refuses.
    """
    how = trt.ExecutionContextAllocationStrategy.USER_MANAGED if runtime_config is None else runtime_config
    context = engine.create_execution_context(how)
    if context is None:
        raise failure("TensorRT cannot make an execution context", messages, "is the device memory taken by others?")
    select_profile(engine, context, name, shape, messages)
    if not context.set_input_shape(name, shape):
        raise failure(f"TensorRT refuses the input shape {shape}", messages, "it lies outside the engine's profile")
    if missing := context.infer_shapes():
        raise failure(f"TensorRT cannot infer shapes of {', '.join(missing)}", messages, "report it with the graph")
    if block is not None and block.nbytes:
        context.set_device_memory(block.address, block.nbytes)
    return context
