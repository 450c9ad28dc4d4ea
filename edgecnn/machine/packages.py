"""How a package that is missing comes onto this machine: a Jetson has it from JetPack, or leaves it to the host; a
desktop installs the extra for what it has."""

from __future__ import annotations

import importlib.util
import re

from edgecnn.errors import MissingPackageError
from edgecnn.machine.gpu import driver_version
from edgecnn.machine.jetson import board_name

_OF_THE_DEVICE = ("cuda-bindings", "pycuda")
_CUDA_13 = {"L4T": 38, "": 580}  # the oldest with CUDA 13: of L4T (JetPack 7), and of the kernel driver


def jetson_extra() -> str:
    """The extra with the CUDA bindings that this Jetson's driver takes."""
    version = driver_version()
    number = re.match(r"(?:L4T )?(\d+)", version)
    newer = number is not None and int(number[1]) >= _CUDA_13["L4T" if version.startswith("L4T") else ""]
    return "jetson7" if newer else "jetson"


def missing_package(package: str, needed_for: str, extra: str) -> MissingPackageError:
    """The error for `package`, whose hint follows the machine; `extra` is what a machine without NVIDIA's driver
    installs."""
    if board_name():
        error = MissingPackageError(package, needed_for, "pycuda" if package == "pycuda" else jetson_extra())
        if package == "tensorrt":
            error.hint = (
                "on a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, and a virtual environment "
                "made with --system-site-packages"
            )
        elif package not in _OF_THE_DEVICE:
            error.hint = (
                f"a Jetson can do without {package}: run this on a host with `edgecnn[cpu]`, and copy its files here"
            )
        return error
    if extra == "pycuda" or extra.endswith("rtx") or not (driver_version() or package in ("tensorrt", "cuda-bindings")):
        return MissingPackageError(package, needed_for, extra)
    error = MissingPackageError(package, needed_for, "gpu")
    if importlib.util.find_spec("onnxruntime") is not None:  # the extra would bring a second one beside it
        error.hint = f"install it with: pip install {package}"
    return error
