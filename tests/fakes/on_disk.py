"""The fakes for a process that is started: a folder for its path, in which `import tensorrt` finds them.

FAKE_TENSORRT is the version, FAKE_GPU the device. FAKE_DIES is the signal by which an engine ends its process as it
runs, and FAKE_DIES_OF a word that stands in the graph of the engines that do so. FAKE_KERNEL is the kernel that a build
finds fastest, each a tenth of a query slower than the one before; with FAKE_WRONG engines answer the opposite.
FAKE_DIES_BUILDING_BY is the word of a build route by which a builder ends its process.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
from pathlib import Path
from typing import Any

from tests.fakes.fake_cuda import FakeDevice, driver_module, runtime_module
from tests.fakes.fake_tensorrt import fake_tensorrt

SITE = Path(__file__).parent / "site"
DEVICE = FakeDevice(os.environ.get("FAKE_GPU", "NVIDIA L4"))


def cuda_runtime() -> Any:
    """`cuda.bindings.runtime`."""
    return runtime_module(DEVICE)


def cuda_driver() -> Any:
    """`cuda.bindings.driver`."""
    return driver_module(DEVICE)


def tensorrt() -> Any:
    """`tensorrt`, of the version that the environment names."""
    module = fake_tensorrt(os.environ["FAKE_TENSORRT"], DEVICE)
    module._fastest = int(os.environ.get("FAKE_KERNEL", "0"))
    if os.environ.get("FAKE_WRONG"):
        right = module._compute

        def wrong(engine: Any, addresses: list[int], shapes: list[tuple[int, ...]]) -> None:
            right(engine, addresses, shapes)
            logits = (ctypes.c_float * math.prod(shapes[1])).from_address(addresses[1])
            logits[:] = [-value for value in logits]

        module._compute = wrong
    if ended := os.environ.get("FAKE_DIES"):
        run = module.IExecutionContext.execute_async_v3

        def dying(self: Any, stream_handle: int) -> bool:
            if os.environ.get("FAKE_DIES_OF", "").encode() in self._engine()._graph:
                signal.signal(signal.Signals[ended], signal.SIG_DFL)  # not faulthandler's
                os.kill(os.getpid(), signal.Signals[ended])
            return run(self, stream_handle)

        module.IExecutionContext.execute_async_v3 = dying
    if word := os.environ.get("FAKE_DIES_BUILDING_BY"):
        build = module.Builder.build_serialized_network

        def aborting(self: Any, network: Any, config: Any) -> Any:
            if word in config._route.split():
                signal.signal(signal.SIGABRT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGABRT)
            return build(self, network, config)

        module.Builder.build_serialized_network = aborting
    return module
