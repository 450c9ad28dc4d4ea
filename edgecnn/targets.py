"""What engines are built for: facts about each device, from `targets.toml`, and whether a machine is that device."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from edgecnn.errors import DeviceError, RecipeError, nearest
from edgecnn.records import STRICT, name_tables, parse_toml, record_from_mapping
from edgecnn.results.device import Device

CPU = "cpu"  # the target that every machine is
FIRST_IMPLICIT_DLA, LAST_IMPLICIT_DLA, FIRST_TYPED_DLA = (10, 3), (10, 7), (11, 4, 1)  # of TensorRT
FIRST_BUILD_ROUTES = (11, 1)  # of TensorRT
TYPED_DLA_TARGET = "agx-orin"
MEMORY_TOLERANCE = 0.3  # boards reserve a part of their memory, and GB are not GiB


@dataclass(frozen=True)
class Target:
    """A device to build for, and the `backend` that its engines are for.

    Versions are strings ("10.3"), `tensorrt_max` "" is no bound; memory in GB as sold. `unsupported` says why this
    project cannot build for it; `engine` whether its engines are plans or ONNX graphs, `built_anywhere` that a build
    needs no such device; `unverified` names the fields that nobody checked.
    """

    __pydantic_config__ = STRICT

    name: str
    kind: Literal["cpu", "gpu"]
    backend: str
    description: str
    source: str
    compute_capability: str = ""
    tensorrt_min: str = ""
    tensorrt_max: str = ""
    memory_gb: tuple[int, ...] = ()
    dla_cores: int = 0
    fp16: bool = True
    int8: bool = True
    jetpack: tuple[str, ...] = ()
    match: tuple[str, ...] = ()
    unified_memory: bool = False
    engine: Literal["plan", "graph"] = "plan"
    built_anywhere: bool = False
    unsupported: str = ""
    unverified: tuple[str, ...] = ()

    @property
    def has_implicit_int8(self) -> bool:
        """Whether its engines are plans of TensorRT, which up to 10 places INT8 by itself when asked to."""
        return self.engine == "plan" and not self.built_anywhere

    @property
    def has_build_routes(self) -> bool:
        """Whether its engines are plans of a TensorRT that may be 11.1 or later."""
        newest = version_tuple(self.tensorrt_max)
        return self.engine == "plan" and not self.built_anywhere and (not newest or newest >= FIRST_BUILD_ROUTES)

    @property
    def has_profiles(self) -> bool:
        """Whether its engines are plans, of TensorRT or TensorRT-RTX, which may have several optimization profiles."""
        return self.engine == "plan"


@dataclass(frozen=True)
class JetPack:
    """What one release of JetPack carries."""

    __pydantic_config__ = STRICT

    name: str
    l4t: str
    devices: str
    cuda: str
    tensorrt: str
    python: str
    supported: bool
    source: str


@dataclass(frozen=True)
class _Tables:
    """What `targets.toml` holds."""

    __pydantic_config__ = STRICT

    target: dict[str, Target]
    jetpack: dict[str, JetPack]


def targets() -> dict[str, Target]:
    """Every target by name, the unsupported ones too."""
    return dict(_content().target)


def jetpacks() -> dict[str, JetPack]:
    """Every JetPack release by name, oldest first."""
    return dict(_content().jetpack)


def find_target(name: str) -> Target:
    """A target by name; raises `RecipeError` with the nearest names, `DeviceError` when it cannot be built for."""
    known = targets()
    if name not in known:
        raise RecipeError(
            f"no target {name!r}",
            nearest(name, known) or "`edgecnn targets` lists them; `gpu` is the GPU of this machine",
        )
    target = known[name]
    if target.unsupported:
        raise DeviceError(
            f"target {name}: not supported: {target.unsupported}",
            "`edgecnn targets` lists what is; ONNX graphs can still be made with --target cpu",
        )
    return target


def target_mismatch(target: Target, device: Device) -> str | None:
    """Why `device` is not `target`, or None when it is; to be asked before anything is built.

    `device` is what a backend's `device()` says; what it leaves out is not judged.
    """
    capability = device.compute_capability
    here = device.board or device.gpu_name or device.cpu or "this machine"
    if target.kind == "cpu":
        return None if not capability else f"target cpu is not {here}: choose one of its names, or gpu"
    if not capability and target.built_anywhere:
        return _tensorrt_mismatch(target, device.tensorrt)
    if not capability:
        return f"target {target.name} is a GPU, and {here} is none"
    if target.compute_capability and capability != target.compute_capability:
        return f"target {target.name} has compute capability {target.compute_capability}, {here} has {capability}"
    names = [name for name in (device.board, device.gpu_name) if name]
    telling = bool(device.board) or not target.unified_memory  # every Orin's GPU is called "Orin"
    if target.match and names and telling and not any(re.search(p, n) for p in target.match for n in names):
        return f"target {target.name} is {target.description}, this is {' with '.join(names)}"
    memory = device.memory_gb
    if memory and target.memory_gb and not any(abs(memory / gb - 1) <= MEMORY_TOLERANCE for gb in target.memory_gb):
        return f"target {target.name} has {' or '.join(map(str, target.memory_gb))} GB, {here} has {memory:.1f}"
    return _tensorrt_mismatch(target, device.tensorrt)


def implicit_mismatch(tensorrt: str) -> str | None:
    """Why a TensorRT has no implicit quantization, or None where it has; "" is a version that is not known."""
    if version_tuple(tensorrt) < (11,):
        return None
    return f"TensorRT {tensorrt} has no implicit quantization, which a weakly typed build needs: 10.x was the last"


def dla_mismatch(target: Target, tensorrt: str, core: int = 0) -> str | None:
    """Why a network cannot be built for a DLA core of `target` by a version of TensorRT, or None where it can."""
    if not target.dla_cores:
        unknown = target.kind == "gpu" and not target.compute_capability and not target.built_anywhere
        what = "is whatever GPU builds: whether it has a DLA is not known, name the device" if unknown else "has no DLA"
        return f"target {target.name} {what}"
    if not 0 <= core < target.dla_cores:
        return f"target {target.name} has {target.dla_cores} DLA cores, counted from 0: there is no core {core}"
    version = version_tuple(tensorrt)
    if FIRST_IMPLICIT_DLA <= version[:2] <= LAST_IMPLICIT_DLA:
        return None
    if version < FIRST_TYPED_DLA:
        return (
            f"TensorRT {tensorrt} builds for no DLA of a Jetson here: 10.3 to 10.7 do, and on AGX Orin 11.4.1 and later"
        )
    return None if target.name == TYPED_DLA_TARGET else f"TensorRT {tensorrt} has DLA on AGX Orin alone"


def version_tuple(text: str) -> tuple[int, ...]:
    """(10, 3, 0) of "10.3.0"; what follows the first part that is not a number is left out."""
    parts = []
    for part in text.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def _tensorrt_mismatch(target: Target, version: str) -> str | None:
    found = version_tuple(version)[:2]
    if not found:
        return None
    if target.tensorrt_min and found < version_tuple(target.tensorrt_min):
        return f"target {target.name} needs TensorRT {target.tensorrt_min} or later, here is {version}"
    if target.tensorrt_max and found > version_tuple(target.tensorrt_max):
        return f"target {target.name} has TensorRT up to {target.tensorrt_max}, here is {version}"
    return None


@functools.cache
def _content() -> _Tables:
    content = parse_toml(resources.files("edgecnn").joinpath("targets.toml").read_text(encoding="utf-8"))
    tables = {key: name_tables(value) for key, value in content.items()}
    return record_from_mapping(_Tables, tables, "targets.toml", "install edgecnn again")
