"""What this machine has, and which steps it can do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import tool_versions
from edgecnn.backends import load_backends
from edgecnn.machine.cpu import available_cores, cpu_name
from edgecnn.machine.gpu import driver_description, driver_version
from edgecnn.version import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "cuda-python",
    "pycuda",
    "nvidia-ml-py",
    "safetensors",
    "scikit-learn",
    "numpy",
    "pillow",
    "typer",
)

PYTORCH = "pytorch-cuda"


def machine(needs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Versions, processor, memory, disk, which steps are possible here and by which ways an engine runs, each tried,
    with the reason where one does not; `needs` are the packages of each step."""
    both = {"onnxruntime", "onnxruntime-gpu"} <= tool_versions(*PACKAGES).keys()
    facts: dict[str, Any] = {
        "edgecnn": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": available_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "nvidia_driver": driver_description(),
        **{key: fact for backend in load_backends() for key, fact in backend.machine_facts().items()},
        "packages": {p: tool_versions(p).get(p, "-") for p in PACKAGES},
        "problems": ["onnxruntime and onnxruntime-gpu share one import package: uninstall one"] if both else [],
        "steps": _steps(needs),
        "ways": [_way(name, why) for name, why in _reasons()],
    }
    return facts


def _reasons() -> Iterator[tuple[str, str]]:
    """Each way to run a network, and why it does not work here."""
    for backend in load_backends():
        yield backend.NAME, backend.why_not()
    if importlib.util.find_spec("torch") is None:
        yield PYTORCH, "torch not installed"
    elif not driver_version():
        yield PYTORCH, "there is no NVIDIA driver"
    else:
        from edgecnn.pytorch.reference import why_no_cuda

        yield PYTORCH, why_no_cuda()


def _way(name: str, why: str) -> dict[str, str]:
    return {"way": name, "works": "no" if why else "yes", "why": why}


def _steps(needs: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    rows = []
    for step, packages in needs.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        why = f"{', '.join(missing)} not installed" if missing else ""
        rows.append({"step": step, "possible": "no" if missing else "yes", "why": why})
    return rows
