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
from edgecnn.backends import BuildOptions, ImplicitInt8
from edgecnn.backends.trt.plan import read_plan_header
from edgecnn.errors import ArtifactError, BackendError, DeviceError
from edgecnn.recipe.schema import BatchProfile
from edgecnn.records import STRICT, mapping_from_json, record_from_mapping, to_plain
from edgecnn.results.device import Device
from edgecnn.results.layers import EngineLayer

OF_THE_DEVICE = ("board", "gpu_name", "compute_capability", "driver", "cuda", "power_mode")
OF_THE_OPTIONS = ("optimization_level", "build_route", "hardware_compatibility", "version_compatible")
MOST_BYTES = 2**63
AS_THEN = "give the options of then; or build without --locked, which writes a new lock"
ANEW = "build it on this machine without --locked, which writes a new lock"


@dataclass(frozen=True, kw_only=True)
class EngineLock:
    """What a plan was made of and on: graph, ranges, the four numbers of TensorRT, GPU, driver and power mode, settings
    of the builder, and by their sha256 the timing cache and the kernels that it led to. `ranges_sha256` is of the file
    that the graph was quantized by, of a weakly typed build of the scales themselves; `profiles` are (min, opt, max)
    images."""

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
    profiles: tuple[BatchProfile, ...]
    workspace_bytes: int
    optimization_level: int
    build_route: str = ""
    hardware_compatibility: str
    version_compatible: bool
    weakly_typed: bool
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
    lock: EngineLock = record_from_mapping(EngineLock, mapping, f"{path}: not a lock of an engine", ANEW)
    if not 0 < lock.workspace_bytes < MOST_BYTES:
        raise ArtifactError(f"{path}: not a lock of an engine: workspace_bytes is no size of memory", ANEW)
    return lock


def write_lock(
    temporary: Path,
    cache: bytes,
    graph: Path,
    source: Sidecar,
    device: Device,
    options: BuildOptions,
    facts: Mapping[str, Any],
    layers: Sequence[EngineLayer],
) -> None:
    """Keep what made the plan `temporary`, beside it; `facts` are its sidecar's."""
    lock = EngineLock(
        graph_sha256=sha256_of(graph),
        ranges_sha256=ranges_sha256(source, options.implicit),
        tensorrt=read_plan_header(temporary).tensorrt,
        **{key: getattr(device, key) for key in OF_THE_DEVICE},
        profiles=_profiles(options),
        workspace_bytes=facts["workspace_bytes"],
        optimization_level=facts["optimization_level"],
        build_route=options.build_route,
        hardware_compatibility=facts["hardware_compatibility"],
        version_compatible=facts["version_compatible"],
        weakly_typed=options.implicit is not None,
        timing_cache_sha256=hashlib.sha256(cache).hexdigest(),
        kernels_sha256=kernels_sha256(layers),
    )
    locked_cache_path(temporary).write_bytes(cache)
    lock_path(temporary).write_bytes((json.dumps(to_plain(lock), indent=1) + "\n").encode())


def ranges_sha256(source: Sidecar, implicit: ImplicitInt8 | None) -> str:
    """Of the calibration ranges that a graph was quantized by, or of the scales of a weakly typed build; "" without
    any."""
    if implicit:
        return hashlib.sha256(json.dumps(sorted(implicit.scales.items())).encode()).hexdigest()
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
    _require_locked_typing(where, lock, options)
    for what, locked, found in (
        ("graph", lock.graph_sha256, sha256_of(graph)),
        ("ranges", lock.ranges_sha256, ranges_sha256(source, options.implicit)),
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


def _require_locked_typing(where: Path, lock: EngineLock, options: BuildOptions) -> None:
    """Raise `BackendError` for a weakly typed build of a lock that is none, or the other way round, and for a workspace
    limit that is not the lock's: it would be ignored."""
    if lock.weakly_typed != (options.implicit is not None):
        kind = "a weakly typed build" if lock.weakly_typed else "a strongly typed build"
        raise BackendError(f"{where}: locked is {kind}, and this is none", AS_THEN)
    if options.workspace_mb is not None and round(options.workspace_mb * 1e6) != lock.workspace_bytes:
        raise BackendError(
            f"{where}: locked with a workspace of {lock.workspace_bytes / 1e6:g} MB, asked for is "
            f"{options.workspace_mb:g}",
            "leave --workspace-mb out: the lock says it",
        )


def require_locked_settings(output: Path, lock: EngineLock, optimization_level: int, options: BuildOptions) -> None:
    """Raise `BackendError` where the builder's settings are not those of the lock."""
    now = {
        "profiles": _profiles(options),
        "optimization_level": optimization_level,
        "build_route": options.build_route,
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
    }
    if lock.profiles != now["profiles"]:
        then = " ".join("--profile " + ":".join(map(str, sizes)) for sizes in lock.profiles)
        raise BackendError(
            f"{lock_path(output)}: locked with profiles = {lock.profiles}, asked for is {now['profiles']}",
            f"give those of then: {then}; or build without --locked, which writes a new lock",
        )
    for key in OF_THE_OPTIONS:
        if (locked := getattr(lock, key)) != now[key]:
            raise BackendError(f"{lock_path(output)}: locked with {key} = {locked}, asked for is {now[key]}", AS_THEN)


def require_locked_kernels(output: Path, lock: EngineLock, layers: Sequence[EngineLayer]) -> None:
    """Raise `BackendError` where a locked build came to other layers or kernels than the lock's."""
    if (found := kernels_sha256(layers)) != lock.kernels_sha256:
        raise BackendError(
            f"{lock_path(output)}: TensorRT chose other kernels than the locked ones, with the same timing cache "
            f"({_short(found)}, locked {_short(lock.kernels_sha256)}); nothing was written",
            f"keep the plan that is there; or {ANEW}, and measure again",
        )


def _profiles(options: BuildOptions) -> tuple[BatchProfile, ...]:
    return tuple((least, best, most) for least, best, most in options.batch.all_profiles)


def _short(sha256: str) -> str:
    return sha256[:12] or "(none)"


def _said(value: str) -> str:
    return value or "(unknown)"
