"""Build, validate and bench engines: native ones in a child process, whose start is in no measured time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgecnn.backends import backend_for, load_backend
from edgecnn.data.dataset import Dataset
from edgecnn.errors import ArtifactError, BackendError
from edgecnn.recipe.schema import BatchSettings, BenchSettings, OrtProvider
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.remote.child import Child
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.device import Device
from edgecnn.results.divergence import EngineDivergence
from edgecnn.results.end_to_end import EndToEnd
from edgecnn.results.latency import LatencyFile
from edgecnn.results.verification import Verification
from edgecnn.steps import bench as latency
from edgecnn.steps import end_to_end as served
from edgecnn.steps import validate as accuracy
from edgecnn.steps import verification as pairs
from edgecnn.steps._arguments import FilePath
from edgecnn.steps._images import Progress
from edgecnn.steps._sessions import CHECKPOINT
from edgecnn.steps.build import rebuild
from edgecnn.steps.engine_bisect import bisect_engine as bisect
from edgecnn.targets import find_target


def is_native(*engines: FilePath | None, provider: OrtProvider | None = None) -> bool:
    """Whether one of them, a graph by the `provider`, is run by code that may take its process down; what is no engine
    is none, and the step says so."""
    paths = [Path(engine) for engine in engines if engine is not None]
    return any(_is_native(path, provider) for path in paths if path.suffix != CHECKPOINT)


def _is_native(path: Path, provider: OrtProvider | None) -> bool:
    with contextlib.suppress(ArtifactError, BackendError):
        return backend_for(path, provider).NATIVE
    return False


def build(
    graph: Path,
    engine: Path,
    *,
    target: str,
    batch: BatchSettings | None = None,
    build_route: str = "",
    rebuilds: int = 1,
) -> None:
    """`steps.rebuild`. Raises `CrashError` where the builder takes its process down."""
    if not load_backend(find_target(target).backend).NATIVE:
        rebuild(graph, engine, rebuilds=rebuilds, target=target, batch=batch, build_route=build_route)
        return
    sizes = None if batch is None else dataclasses.asdict(batch)
    how = {"target": target, "batch": sizes, "build_route": build_route, "rebuilds": rebuilds}
    with Child() as child:
        child.call(str(engine), "build", _as_json({"graph": graph, "output": engine, **how}))


def validate(
    engine: FilePath,
    reference: FilePath,
    output: FilePath | None = None,
    *,
    images: str = "",
    dataset: Callable[[], Dataset] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Accuracy:
    """`steps.validate`; `dataset` opens the images where the caller has opened them already, and `images` names the
    same for a process of its own. Raises `CrashError` where the engine takes that process down."""
    if not is_native(engine, provider=settings.get("provider")) and not is_native(reference):
        opened = dataset() if dataset else None
        return accuracy.validate(engine, reference, output, dataset=opened, progress=progress, **settings)
    given = {"engine": engine, "reference": reference, "output": output, "images": images, **settings}
    with Child() as child:
        found = child.call(str(engine), "validate", _as_json(given), progress)
    return record_from_mapping(Accuracy, found, str(engine), "report it")


def validate_verification(
    engine: Path,
    reference: Path,
    output: Path | None = None,
    *,
    dataset: Callable[[], Dataset] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Verification:
    """`steps.validate_verification`. Raises `CrashError` where the engine takes its process down."""
    if not is_native(engine, provider=settings.get("provider")) and not is_native(reference):
        opened = dataset() if dataset else None
        return pairs.validate_verification(engine, reference, output, dataset=opened, progress=progress, **settings)
    given = {"engine": engine, "reference": reference, "output": output, **settings}
    with Child() as child:
        found = child.call(str(engine), "validate_verification", _as_json(given), progress)
    return record_from_mapping(Verification, found, str(engine), "report it")


def bisect_engine(engine: FilePath, *, provider: OrtProvider | None = None, **settings: Any) -> EngineDivergence:
    """`steps.bisect_engine`. Raises `CrashError` where the engine, or a build of it, takes its process down."""
    if not is_native(engine, provider=provider):
        return bisect(engine, provider=provider, **settings)
    with Child() as child:
        found = child.call(str(engine), "bisect_engine", _as_json({"engine": engine, "provider": provider, **settings}))
    return record_from_mapping(EngineDivergence, found, str(engine), "report it")


def bench(
    engine: FilePath, output: FilePath | None = None, *, progress: Progress | None = None, **settings: Any
) -> LatencyFile:
    """`steps.bench`. Raises `CrashError` where an engine takes its process down."""
    if not is_native(engine, settings.get("versus"), provider=settings.get("provider")):
        return latency.bench(engine, output, progress=progress, **settings)
    with Child() as child:
        found = child.call(str(engine), "bench", _as_json({"engine": engine, "output": output, **settings}), progress)
    return record_from_mapping(LatencyFile, found, str(engine), "report it")


def bench_end_to_end(
    engine: FilePath,
    output: FilePath | None = None,
    *,
    data: str,
    settings: served.EndToEndSettings,
    strict: bool = False,
) -> EndToEnd:
    """`steps.bench_end_to_end`, whose several processes are others already. Raises `CrashError` where the engine takes
    its process down."""
    if settings.processes > 1 or not is_native(engine):
        return served.bench_end_to_end(engine, output, data=data, settings=settings, strict=strict)
    given = {"engine": engine, "output": output, "data": data, "strict": strict}
    with Child() as child:
        found = child.call(
            str(engine), "bench_end_to_end", _as_json({**given, "settings": dataclasses.asdict(settings)})
        )
    return record_from_mapping(EndToEnd, found, str(engine), "report it")


def bench_all(
    engines: Mapping[str, Path],
    output: Path,
    *,
    checkpoint: Path,
    settings: BenchSettings,
    device: Device | None,
    progress: Progress | None = None,
    **more: Any,
) -> LatencyFile:
    """`steps.bench_all`. Raises `CrashError` where one of the engines takes their process down: which is not known."""
    if not is_native(*engines.values()):
        return latency.bench_all(
            engines, output, checkpoint=checkpoint, settings=settings, device=device, progress=progress, **more
        )
    given = {
        "engines": dict(engines),
        "output": output,
        "checkpoint": checkpoint,
        "settings": dataclasses.asdict(settings),
        "device": None if device is None else to_plain(device),
        **more,
    }
    with Child() as child:
        found = child.call(", ".join(engines), "bench_all", _as_json(given), progress)
    return record_from_mapping(LatencyFile, found, ", ".join(engines), "report it")


def _as_json(value: Any) -> Any:
    """Paths, from wherever the other process stands, and what holds them."""
    if isinstance(value, Mapping):
        return {key: _as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(inner) for inner in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
