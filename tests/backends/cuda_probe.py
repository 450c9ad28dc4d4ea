"""Names and numbers of arguments of the calls that we use, in the bindings that this process finds (cuda-bindings, or
cuda-python before 12.8), of the runtime and of the driver API, against the fake's: prints what differs."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from edgecnn.backends import _cuda
from tests.fakes.fake_cuda import FakeDevice, driver_module, runtime_module

MEMBERS = {
    "cudaMemcpyKind": {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2},
    "cudaStreamCaptureMode": {"cudaStreamCaptureModeThreadLocal": 1},
}


def differences(runtime: Any) -> list[str]:
    """What of our calls these bindings do not have, or take otherwise."""
    fake: Any = runtime_module(FakeDevice())
    source = inspect.getsource(_cuda)
    offered = [name for name in vars(fake) if name.startswith("cuda") and callable(getattr(fake, name))]
    used = [name for name in offered if f'"{name}"' in source or f".{name}" in source]
    assert len(used) > 25
    found = [f"{name} is absent" for name in offered if not hasattr(runtime, name)]
    for constant in ("cudaHostAllocDefault", "cudaStreamNonBlocking", "cudaEventDefault"):
        if getattr(runtime, constant) != getattr(fake, constant):
            found.append(f"{constant} is {getattr(runtime, constant)}")
    for kind, members in MEMBERS.items():
        found += [f"{kind}.{m}" for m, n in members.items() if int(getattr(getattr(runtime, kind), m)) != n]
    for name in used:
        if isinstance(call := getattr(runtime, name), type):
            continue
        text = (call.__doc__ or "").split(")")[0]
        taken = text.count(",") + 1 if text.split("(")[1].strip() else 0
        if getattr(fake, name).__wrapped__.__code__.co_argcount != taken:
            found.append(f"{name}: {text}")
    return found


def driver_differences(driver: Any) -> list[str]:
    """The same of the driver API's."""
    fake: Any = driver_module(FakeDevice())
    used = [name for name in vars(fake) if name.startswith("cu") and f'"{name}"' in inspect.getsource(_cuda)]
    assert len(used) == 4
    found = []
    for name in used:
        text = (getattr(driver, name).__doc__ or "").split(")")[0]
        if getattr(fake, name).__wrapped__.__code__.co_argcount != text.count(",") + 1:
            found.append(f"{name}: {text}")
    return found


if __name__ == "__main__":
    for line in differences(importlib.import_module("cuda.bindings.runtime")):
        print(line)
    for line in driver_differences(importlib.import_module("cuda.bindings.driver")):
        print(line)
