"""A Jetson AGX Orin as a process: fakes of TensorRT 10.3 and CUDA, and no package of the host to import.

`python -m tests.fakes.orin '[["run", "x.tar"], ...]' [10.3.0]` runs command lines one after the other and prints their
exit codes. The fake TensorRT executes with ONNX Runtime, so that this is imported before it is blocked for everyone
else.
"""

from __future__ import annotations

import importlib
import json
import sys

from edgecnn.backends import trt
from edgecnn.cli import main
from tests.fakes.fake_cuda import FakeDevice, runtime_module

HOST_ONLY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "sklearn", "safetensors", "timm")
ORIN = FakeDevice(name="Orin", capability=(8, 7), total=64_000_000_000, integrated=True)


def become_an_orin(version: str = "10.3.0") -> None:
    """From here on this process is a device; its TensorRT says that it is of this version."""
    from tests.fakes.fake_tensorrt import fake_tensorrt, runtime

    runtime()
    sys.modules["tensorrt"] = fake = fake_tensorrt("10.3.0", ORIN)
    fake.__version__ = version  # type: ignore[attr-defined]
    trt.NATIVE = False  # a child would not be an Orin
    sys.modules["cuda.bindings.runtime"] = runtime_module(ORIN)
    for name in HOST_ONLY:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in HOST_ONLY:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        raise AssertionError(f"{name} can be imported")


if __name__ == "__main__":
    become_an_orin(*sys.argv[2:])
    print("codes", json.dumps([main(arguments) for arguments in json.loads(sys.argv[1])]))
