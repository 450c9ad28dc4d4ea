"""Build an engine for a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.calibration_cache import read_calibration_cache
from edgecnn.artifact.external import external_files
from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.artifact.write import check_output
from edgecnn.backends import BuildOptions, ImplicitInt8, load_backend, provider_backend, require_inference_graph
from edgecnn.errors import ArtifactError, BackendError, DeviceError, RecipeError
from edgecnn.graph.decision import require_logits
from edgecnn.limits import what_lacks
from edgecnn.recipe.schema import BatchSettings, HardwareCompatibility, OrtProvider, RangeMethod, Setting, fields_of
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_one_of
from edgecnn.steps._provenance import sidecar_of
from edgecnn.targets import CPU, find_target, target_mismatch


def build(
    graph: FilePath,
    output: FilePath | None = None,
    *,
    target: str = "",
    backend: str = "",
    provider: OrtProvider | None = None,
    batch: BatchSettings | None = None,
    threads: int | None = None,
    workspace_mb: int | None = None,
    optimization_level: int | None = None,
    build_route: str = "",
    hardware_compatibility: HardwareCompatibility = "none",
    version_compatible: bool = False,
    timing_cache: FilePath | None = None,
    locked: bool = False,
    fresh_timings: bool = False,
    compute_capabilities: Sequence[str] = (),
    weakly_typed: bool = False,
    ranges: FilePath | None = None,
    method: RangeMethod = "auto",
) -> Path:
    """Build a graph into an engine for a target, and check that it runs; returns the engine.

        import edgecnn as ec
        engine = ec.build("m.int8-tensorrt.onnx", target="agx-orin")
        ec.bench(engine).p50

    `target` is a device of `edgecnn targets`, cpu, or gpu for whatever GPU is here; left out, it is the `backend`'s
    own, and without either cpu. `provider` is what of ONNX Runtime computes (cpu, cuda, tensorrt or rtx): each is a
    backend. `compute_capabilities` ("7.5", "8.9") are the GPUs that a TensorRT-RTX plan is for; it
    is built without one. The engine takes and gives what the graph does, for N images as `batch` says
    (left out: the batch that is frozen in the graph, else 1 to 8);
    `workspace_mb` (1e6 bytes) and what follows are TensorRT's, as `BuildOptions` describes them: a `locked` build uses
    the lock and the timing cache beside `output`, and one with `fresh_timings` no cache. `weakly_typed` lets
    TensorRT 10 choose INT8 or FP16 for each layer of a float32 graph, with the scales of `ranges` (X.calib.json, by
    `method`; "auto" is "mse" here; or a calibration cache). Without an `output` it
    lies beside the graph: X.plan, or X.engine.onnx for ONNX Runtime. Raises `DeviceError` when this machine is not that
    target, `GraphError` for a graph exported in training mode, and the errors of the backend.
    """
    graph = Path(graph)
    if batch is not None and (problems := batch.find_contradictions()):
        raise RecipeError(problems[0], "for example profiles of 1:1:1 and 8:16:32")
    require_one_of("hardware_compatibility", hardware_compatibility, HardwareCompatibility)
    require_at_least(1, threads=threads, workspace_mb=workspace_mb)
    require_at_least(0, optimization_level=optimization_level)
    if locked and fresh_timings:
        raise RecipeError("locked with fresh_timings: a locked build times nothing", "leave one of them out")
    if provider is not None:
        require_one_of("provider", provider, OrtProvider)
        backend = provider_backend(provider, backend)
    module = load_backend(backend or find_target(target or CPU).backend)
    if not graph.is_file():
        raise ArtifactError(f"{graph}: {what_lacks(graph)}", "export it first, or check the path")
    external_files(graph)
    require_inference_graph(graph)
    device, build_route = find_target(target or module.DEFAULT_TARGET), " ".join(build_route.split())
    if device.backend != module.NAME:
        raise DeviceError(
            f"target {device.name} is built with --backend {device.backend}, not {module.NAME}",
            f"use --backend {device.backend}, or another --target",
        )
    implicit = _implicit(graph, weakly_typed, path_or_none(ranges), method)
    source = sidecar_of(graph)
    batch = batch or _served_batch(source)
    if implicit and not device.has_implicit_int8:
        raise BackendError(
            f"a weakly typed build is TensorRT 10's alone, and target {device.name} is built by {module.PROVIDER}",
            "name --target gpu, or a device; or leave --weakly-typed out",
        )
    if device.kind == "gpu":
        require_logits(graph, source)
    if mismatch := target_mismatch(device, module.device(threads)):
        raise DeviceError(mismatch, "build on the device itself, or name the target that this machine is")
    engine = path_or_none(output) or _engine_path(graph, module.SUFFIXES[0])
    check_output(engine, engine.suffix if engine.suffix in module.SUFFIXES else module.SUFFIXES[0], graph)
    if timing_cache is not None:
        cache = Path(timing_cache)
        check_output(cache, cache.suffix, graph, engine, path_or_none(ranges), option="--timing-cache")
    own = _implicit_fields(implicit, method) | route_fields(build_route)
    options = BuildOptions(
        target=device.name,
        batch=batch,
        threads=threads,
        workspace_mb=workspace_mb,
        optimization_level=optimization_level,
        build_route=build_route,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        timing_cache=path_or_none(timing_cache),
        fresh_timings=fresh_timings,
        locked=locked,
        compute_capabilities=tuple(compute_capabilities),
        implicit=implicit,
        recipe=source.recipe,
        fields={**source.fields, **fields_of("batch", batch), **own},
    )
    module.engine_from_onnx(graph, engine, options)
    return engine


def route_fields(route: str) -> dict[str, Setting]:
    """Of a build route as an engine's `fields` have it; none of a build without one."""
    return {"build.route": route} if route else {}


def _served_batch(source: Sidecar) -> BatchSettings:
    """What an engine serves where nobody says it: the batch that is frozen in the graph, else the defaults."""
    frozen = source.facts.get("batch")
    return BatchSettings(frozen, frozen, frozen) if isinstance(frozen, int) and frozen > 0 else BatchSettings()


def rebuild(
    graph: FilePath, output: FilePath | None = None, *, rebuilds: int, locked: bool = False, **settings: Any
) -> list[Path]:
    """Build a graph so many times, each with timings of its own; only builds, and returns the engines: X.plan and
    X.build2.plan, X.build3.plan ... beside it. `settings` are those of `build`. Raises `RecipeError` for fewer than one
    build, and for locked ones, which are all alike; and the errors of `build`."""
    require_at_least(1, rebuilds=rebuilds)
    if rebuilds == 1:
        return [build(graph, output, locked=locked, **settings)]
    if locked or settings.get("timing_cache"):
        raise RecipeError(
            "--rebuilds with --locked or --timing-cache: builds from one cache say nothing of how builds differ",
            "leave one of them out",
        )
    first = build(graph, output, fresh_timings=True, **settings)
    others = [rebuilt_path(first, k) for k in range(2, rebuilds + 1)]
    return [first, *(build(graph, other, fresh_timings=True, **settings) for other in others)]


def rebuilt_path(first: Path, k: int) -> Path:
    """The `k`th of several builds, counted from 1, beside the first."""
    return first if k == 1 else first.with_name(f"{first.stem}.build{k}{first.suffix}")


def _implicit(graph: Path, weakly_typed: bool, ranges: Path | None, method: RangeMethod) -> ImplicitInt8 | None:
    """The scales of a weakly typed build; raises `RecipeError` for one without ranges, and for ranges without one."""
    require_one_of("method", method, RangeMethod)
    if not weakly_typed and ranges is None:
        return None
    if not weakly_typed or ranges is None:
        raise RecipeError(
            "a weakly typed build needs the ranges of its INT8"
            if weakly_typed
            else "ranges are of a weakly typed build",
            "give both: --weakly-typed --ranges X.calib.json (or a calibration cache); otherwise neither",
        )
    from edgecnn.graph.calibration.file import implicit_scales, read_ranges

    if ranges.suffix != ".json":
        return ImplicitInt8(read_calibration_cache(ranges).scales, ranges)
    return ImplicitInt8(
        implicit_scales(read_ranges(ranges, sha256_of(graph)), "mse" if method == "auto" else method), ranges
    )


def _implicit_fields(implicit: ImplicitInt8 | None, method: RangeMethod) -> dict[str, object]:
    if implicit is None:
        return {}
    measured = sidecar_of(implicit.source).fields if implicit.source.suffix == ".json" else {}
    return {**measured, "build.weakly_typed": True, "quantize.method": method}


def _engine_path(graph: Path, suffix: str) -> Path:
    path = graph.with_suffix(suffix)
    return path if path != graph else graph.with_name(f"{graph.stem}.engine{suffix}")
