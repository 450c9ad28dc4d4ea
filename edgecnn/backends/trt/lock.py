"""What made a plan, so that it can be made again: `X.engine.lock` beside `X.plan`, and the timing cache of its build.

TensorRT times kernels while it builds and takes the fastest, so that two builds of one graph differ. A timing cache
alone promises nothing: what it lacks is timed anew, and at optimization level 4 and above kernels differ even with it.
A locked build therefore takes nothing that the cache lacks, and its layers are compared with those of the lock.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.artifact.write import write_bytes
from edgecnn.backends import BuildOptions
from edgecnn.backends.trt.plan import read_plan_header
from edgecnn.errors import ArtifactError, BackendError, DeviceError
from edgecnn.records import STRICT, mapping_from_json, record_from_mapping, to_plain
from edgecnn.results.device import Device
from edgecnn.results.layers import EngineLayer

OF_THE_DEVICE = ("board", "gpu_name", "compute_capability", "driver", "cuda", "power_mode")
OF_THE_OPTIONS = ("batch", "optimization_level", "hardware_compatibility", "version_compatible")
ANEW = "build it on this machine without --locked, which writes a new lock"


@dataclass(frozen=True, kw_only=True)
class EngineLock:
    """What a plan was made of and on: graph, ranges, the four numbers of TensorRT, GPU, driver and power mode, settings
    of the builder, and by their sha256 the timing cache and the kernels that it led to."""

    __pydantic_config__ = STRICT

    graph_sha256: str
    ranges_sha256: str
    tensorrt: str
    board: str
    gpu_name: str
    compute_capability: str
    driver: str
    cuda: str
    power_mode: str
    batch: tuple[int, int, int]
    workspace_bytes: int
    optimization_level: int
    hardware_compatibility: str
    version_compatible: bool
    timing_cache_sha256: str
    kernels_sha256: str


def lock_path(plan: Path) -> Path:
    """Where the lock of a plan stands."""
    return plan.with_suffix(".engine.lock")


def locked_cache_path(plan: Path) -> Path:
    """Where the timing cache of its build stands."""
    return plan.with_suffix(".timing.cache")


def locked_by(plan: Path) -> list[str]:
    """The files beside a plan by which it can be built again."""
    return [lock_path(plan).name, locked_cache_path(plan).name]


def read_lock(plan: Path) -> EngineLock:
    """The lock of a plan; raises `ArtifactError` where there is none, and for a damaged one."""
    path = lock_path(plan)
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ArtifactError(f"{path}: no lock to build by: {exc.strerror}", ANEW) from exc
    mapping = mapping_from_json(content, str(path), ANEW)
    return record_from_mapping(EngineLock, mapping, f"{path}: not a lock of an engine", ANEW)


def write_lock(
    plan: Path,
    cache: bytes,
    graph: Path,
    source: Sidecar,
    device: Device,
    facts: Mapping[str, Any],
    layers: Sequence[EngineLayer],
) -> None:
    """Keep what made a plan that was just written; `facts` are its sidecar's."""
    (profile,) = facts["profiles"][:1]
    lock = EngineLock(
        graph_sha256=sha256_of(graph),
        ranges_sha256=ranges_sha256(source),
        tensorrt=read_plan_header(plan).tensorrt,
        **{key: getattr(device, key) for key in OF_THE_DEVICE},
        batch=tuple(profile[k][0] for k in ("min", "opt", "max")),
        workspace_bytes=facts["workspace_bytes"],
        optimization_level=facts["optimization_level"],
        hardware_compatibility=facts["hardware_compatibility"],
        version_compatible=facts["version_compatible"],
        timing_cache_sha256=hashlib.sha256(cache).hexdigest(),
        kernels_sha256=kernels_sha256(layers),
    )
    write_bytes(locked_cache_path(plan), cache)
    write_bytes(lock_path(plan), (json.dumps(to_plain(lock), indent=1) + "\n").encode())


def ranges_sha256(source: Sidecar) -> str:
    """Of the calibration ranges that a graph was quantized by; "" without any."""
    return next((sha for name, sha in source.parents.items() if name.endswith(".calib.json")), "")


def kernels_sha256(layers: Sequence[EngineLayer]) -> str:
    """Of every layer with its precision and its kernel: what may differ between two builds of one graph."""
    rows = [[layer.name, layer.kind, layer.precision, layer.tactic] for layer in layers]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def require_locked(
    graph: Path, output: Path, source: Sidecar, device: Device, options: BuildOptions
) -> tuple[EngineLock, BuildOptions]:
    """The lock of `output` with the options to build by, its workspace limit and timing cache among them.

    Raises `ArtifactError` for another graph, ranges or timing cache, `DeviceError` for another device or TensorRT,
    `BackendError` for other settings of the builder.
    """
    lock, where = read_lock(output), lock_path(output)
    for what, locked, found in (
        ("graph", lock.graph_sha256, sha256_of(graph)),
        ("ranges", lock.ranges_sha256, ranges_sha256(source)),
    ):
        if locked != found:
            raise ArtifactError(f"{where}: its {what} {_short(locked)} is not that of {graph}: {_short(found)}", ANEW)
    for key in OF_THE_DEVICE:
        if (locked := getattr(lock, key)) != (found := getattr(device, key)):
            raise DeviceError(f"{where}: a lock of another device: {key} {_said(locked)}, here {_said(found)}", ANEW)
    here = device.tensorrt.split(".")
    if lock.tensorrt.split(".")[: len(here)] != here:
        raise DeviceError(f"{where}: locked with TensorRT {lock.tensorrt}, here is {device.tensorrt}", ANEW)
    cache = options.timing_cache or locked_cache_path(output)
    if not cache.is_file():
        raise ArtifactError(f"{cache}: the timing cache of {where} is not there", f"copy it along; or {ANEW}")
    if (found := sha256_of(cache)) != lock.timing_cache_sha256:
        raise ArtifactError(
            f"{cache}: {_short(found)} is not the timing cache of {where}, {_short(lock.timing_cache_sha256)}",
            f"copy it again; or {ANEW}",
        )
    return lock, dataclasses.replace(options, timing_cache=cache, workspace_mb=lock.workspace_bytes / 1e6)


def require_locked_settings(output: Path, lock: EngineLock, optimization_level: int, options: BuildOptions) -> None:
    """Raise `BackendError` where the builder's settings are not those of the lock."""
    batch = options.batch
    now = {
        "batch": (batch.min, batch.opt, batch.max),
        "optimization_level": optimization_level,
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
    }
    for key in OF_THE_OPTIONS:
        if (locked := getattr(lock, key)) != now[key]:
            raise BackendError(
                f"{lock_path(output)}: locked with {key} = {locked}, asked for is {now[key]}",
                "give the options of then; or build without --locked, which writes a new lock",
            )


def require_locked_kernels(output: Path, lock: EngineLock, layers: Sequence[EngineLayer]) -> None:
    """Raise `BackendError` where a locked build came to other layers or kernels than the lock's."""
    if (found := kernels_sha256(layers)) != lock.kernels_sha256:
        raise BackendError(
            f"{lock_path(output)}: TensorRT chose other kernels than the locked ones, with the same timing cache "
            f"({_short(found)}, locked {_short(lock.kernels_sha256)}); nothing was written",
            f"keep the plan that is there; or {ANEW}, and measure again",
        )


def _short(sha256: str) -> str:
    return sha256[:12] or "(none)"


def _said(value: str) -> str:
    return value or "(unknown)"
