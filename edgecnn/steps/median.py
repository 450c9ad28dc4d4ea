"""Of several builds of the same engines, each measured in a folder of its own, keep the one of median latency."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.run_folder import ACCURACY, CRASH, ResultFile, TargetRun, read_target_run
from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sidecar_path
from edgecnn.artifact.write import write_artifact, write_bytes, write_json_artifact
from edgecnn.errors import MeasurementError
from edgecnn.records import to_plain
from edgecnn.results.latency import LatencyFile, LatencyRow
from edgecnn.results.rebuilds import Rebuilds

BUILT = "build.rebuilds"


def keep_engine(builds: Sequence[Path], output: Path, name: str, made_of: Sequence[Path]) -> Path | None:
    """Copy the engine `name`, `made_of` a graph and perhaps ranges, of the build that is kept to `output`, with what
    its sidecar says belongs to it; None where it ran in no build, whose crash is copied in its place: then nothing is
    left of one that did before."""
    runs = [read_target_run(folder) for folder in builds]
    output.with_name(CRASH.replace("*", name)).unlink(missing_ok=True)
    kept = median_build(runs, name)
    if kept is None:
        crash = next(c for run in runs for c in run.crashes if c.content.name == name)
        _remove_engine(output)
        _write(output.with_name(crash.path.name), crash, {BUILT: len(builds)}, crash.path.parent / output.name)
        return None
    source = builds[kept] / output.name
    made = read_sidecar(source)
    timed = [run.latency for run in runs if run.latency]
    fields = {key: value for file in timed for key, value in _provenance(file).fields.items()}
    for beside in made.facts.get("locked_by", ()):
        write_bytes(output.with_name(beside), source.with_name(beside).read_bytes())
    sidecar = dataclasses.replace(
        made,
        parents=parents_of(output, *made_of, *(file.path for file in timed)),
        fields={**fields, **made.fields, BUILT: len(builds)},
        facts={**made.facts, "rebuild": kept + 1},
    )
    write_artifact(output, lambda temporary: shutil.copyfile(source, temporary), sidecar)
    return output


def _remove_engine(engine: Path) -> None:
    beside = sidecar_path(engine)
    locked_by = read_sidecar(engine).facts.get("locked_by", ()) if beside.exists() else ()
    for path in (
        engine.with_name(ACCURACY.replace("*", engine.stem)),
        *map(engine.with_name, locked_by),
        engine,
        beside,
    ):
        path.unlink(missing_ok=True)


def keep_accuracy(builds: Sequence[Path], output: Path, name: str, engine: Path, reference: Path) -> None:
    """Write what was measured of the engine that is kept as `output`; nothing where none is."""
    if not engine.exists():
        return
    made = read_sidecar(engine)
    run = read_target_run(builds[made.facts["rebuild"] - 1])
    (found,) = (file for file in run.accuracies if file.content.name == name)
    _write(output, found, made.fields, engine, reference)


def keep_latency(builds: Sequence[Path], output: Path, engines: Sequence[tuple[str, Path]]) -> None:
    """Write the latencies of the engines that are kept as `output`, each with those of its other builds."""
    runs = [read_target_run(folder) for folder in builds]
    there = [(name, engine) for name, engine in engines if engine.exists()]
    if not there:
        output.unlink(missing_ok=True)
        return
    rows, fields = list[LatencyRow](), dict[str, object]()
    for name, engine in there:
        made = read_sidecar(engine)
        fields |= made.fields
        kept: int = made.facts["rebuild"]
        each = tuple(row.latency.latency_ms_p50 if row else None for row in (_row(run, name) for run in runs))
        row = _row(runs[kept - 1], name)
        assert row is not None
        rows.append(dataclasses.replace(row, rebuilds=Rebuilds(len(builds), kept, each)))
    files = [run.latency for run in runs if run.latency]
    clocks = {file.content.device.clocks_locked for file in files}
    device = dataclasses.replace(
        files[0].content.device, clocks_locked=next(iter(clocks)) if len(clocks) == 1 else False
    )
    content = LatencyFile(device=device, reference=files[0].content.reference, measurements=tuple(rows))
    found = ResultFile(output, content, files[0].provenance)
    _write(output, found, fields, *(engine for _, engine in there))


def median_build(runs: Sequence[TargetRun], name: str) -> int | None:
    """Which of the builds has the median of the median latencies, of an even number the faster of the two; None where
    none was timed. A build that crashed is not kept."""
    crashed = [{file.content.name for file in run.crashes} for run in runs]
    timed = [
        (row.latency.latency_ms_p50, k)
        for k, run in enumerate(runs)
        if name not in crashed[k] and (row := _row(run, name)) is not None
    ]
    return sorted(timed)[(len(timed) - 1) // 2][1] if timed else None


def _row(run: TargetRun, name: str) -> LatencyRow | None:
    rows: tuple[LatencyRow, ...] = run.latency.content.measurements if run.latency else ()
    return next((row for row in rows if row.latency.name == name), None)


def _provenance(file: ResultFile) -> Sidecar:
    if file.provenance is None:
        raise MeasurementError(f"{file.path}: does not say what made it", "remove it, and run again")
    return file.provenance


def _write(output: Path, found: ResultFile, fields: Mapping[str, Any], *parents: Path) -> None:
    made = _provenance(found)
    own = dataclasses.replace(made, parents=parents_of(output, *parents), fields={**fields, **made.fields})
    write_json_artifact(output, to_plain(found.content), own)
