"""A target's folder in a run: every result in it, read once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgecnn.artifact.dla_log import read_dla_log
from edgecnn.artifact.sidecar import Sidecar, read_json, sha256_of, sidecar_from_json
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.records import record_from_mapping
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.crash import CrashFile
from edgecnn.results.device import Device
from edgecnn.results.gradients import GradientNorms
from edgecnn.results.latency import LatencyFile
from edgecnn.results.report import Measurement, RunReport
from edgecnn.results.sensitivity import ENDING, Sensitivity
from edgecnn.results.verdict import Verdict

ACCURACY = "*.accuracy.json"
CRASH = "*.crash.json"
DLA_LOG = "*.dla.log"
LATENCY = "latency.json"
BUILDS = "builds"  # of a target's folder: one like it for each of several builds
VERDICT = "verdict.json"
REPORT = "report.json"
GRADIENTS = "gradient-norms.json"  # of the run: what its training recorded

Content = TypeVar("Content")


@dataclass(frozen=True)
class ResultFile:
    """One result on disk: its content as a record, and what made it (None for a file without provenance)."""

    path: Path
    content: Any
    provenance: Sidecar | None

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file as it is now."""
        return sha256_of(self.path)


@dataclass(frozen=True)
class TargetRun:
    """What was measured of one target: its engines' accuracies, their latencies, the crashes of those that
    took their process down, what was reported of builds for a DLA, and the verdict if there is one."""

    folder: Path
    accuracies: tuple[ResultFile, ...]
    latency: ResultFile | None
    crashes: tuple[ResultFile, ...] = ()
    dla_builds: tuple[ResultFile, ...] = ()

    @functools.cached_property
    def verdict(self) -> ResultFile | None:
        """What was judged last, read when it is asked for: judging anew is the way out of a damaged one."""
        path = self.folder / VERDICT
        return _read(Verdict, path, "`edgecnn gate`") if path.exists() else None

    @property
    def results(self) -> tuple[ResultFile, ...]:
        """What a verdict is made from."""
        return (*self.accuracies, *([self.latency] if self.latency else ()), *self.crashes, *self.dla_builds)

    @functools.cached_property
    def builds(self) -> tuple[TargetRun, ...]:
        """Each of the builds that its engines were chosen from; none where each was built once."""
        most = max((m.rebuilds.rebuilds_n for m in self.measurements if m.rebuilds), default=0)
        found = (read_target_run(self.folder / BUILDS / str(k)) for k in range(1, most + 1))
        return tuple(replace(one, dla_builds=self.dla_builds) for one in found)

    @functools.cached_property
    def device(self) -> Device:
        """What the latencies were measured on; an empty one where there are none."""
        return self.latency.content.device if self.latency else Device()

    @functools.cached_property
    def reference(self) -> str | None:
        """What the latency ratios are to."""
        return self.latency.content.reference if self.latency else None

    @functools.cached_property
    def target(self) -> str:
        """The device's name; raises `MeasurementError` where engines of several targets lie in the folder, or where
        they do not say it."""
        named = {m.engine.target for m in self.measurements}
        if len(named) != 1 or "" in named:
            found = ", ".join(sorted(named - {""})) or "none"
            raise MeasurementError(
                f"{self.folder}: the engines measured there must be of one target; named are: {found}",
                "build them with `edgecnn run`, or with `edgecnn build --target`, and measure again",
            )
        return named.pop()

    @functools.cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """One for each engine: those with a latency first, in their order. Raises `MeasurementError` for none."""
        rows = {row.latency.name: row for row in self.latency.content.measurements} if self.latency else {}
        files = {file.content.name: file.content for file in self.accuracies}
        crashes = {file.content.name: file.content for file in self.crashes}
        if not rows and not files and not crashes:
            raise MeasurementError(
                f"{self.folder}: no measurements", "run `edgecnn run`, or `edgecnn validate` and `bench`"
            )
        found = []
        for name in [*rows, *sorted((files.keys() | crashes.keys()) - rows.keys())]:
            row, file, crash = rows.get(name), files.get(name), crashes.get(name)
            engine = file.engine if file else row.engine if row else crash.engine if crash else None
            if engine is None:
                raise MeasurementError(
                    f"{self.folder}: {name} was benched without a sidecar: what it is is not known",
                    "keep the sidecar beside the engine, and measure again",
                )
            found.append(
                Measurement(
                    name=name,
                    engine=engine,
                    facts=row.facts if row else None,
                    accuracy=file.accuracy if file else None,
                    verification=file.verification if file else None,
                    latency=row.latency if row else None,
                    ratio=row.ratio if row else None,
                    startup=row.startup if row else None,
                    rebuilds=row.rebuilds if row else None,
                    energy=row.energy if row else None,
                    crash=crash.crash if crash else None,
                )
            )
        return self._with_dla_builds(found)

    def _with_dla_builds(self, found: list[Measurement]) -> tuple[Measurement, ...]:
        """Each build for a DLA belongs to the engine of its precision whose graph has Q/DQ pairs, where that is INT8;
        raises `MeasurementError` where there is none, or one already."""
        for file in self.dla_builds:
            precision = file.content.dla_precision
            fit = [m for m in found if m.engine.precision_requested == precision and m.engine.scheme != "implicit"]
            if len(fit) != 1 or fit[0].dla is not None:
                what = (
                    f"{len(fit)} engines were" if len(fit) != 1 else "another log stands beside it of the one that was"
                )
                raise MeasurementError(
                    f"{file.path}: a build for a DLA in {precision}: {what} measured in that precision",
                    "keep one log of each precision, beside the engine of the GPU",
                )
            found = [replace(m, dla=file.content) if m is fit[0] else m for m in found]
        return tuple(found)


def read_target_run(folder: Path) -> TargetRun:
    """What was measured in a target's folder; raises `ArtifactError` for a damaged file, `MeasurementError` for
    results that cannot be told apart."""
    accuracies = tuple(_read(AccuracyFile, path, "`edgecnn validate`") for path in sorted(folder.glob(ACCURACY)))
    for file in accuracies:
        if file.content.accuracy is None and file.content.verification is None:
            raise ArtifactError(f"{file.path}: damaged: it has no accuracy", "make it again: `edgecnn validate`")
    names = [file.content.name for file in accuracies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MeasurementError(f"{folder}: {twice} was validated more than once", "keep one accuracy of each engine")
    return TargetRun(
        folder,
        accuracies,
        read_latency(folder / LATENCY) if (folder / LATENCY).exists() else None,
        tuple(_read(CrashFile, path, "`edgecnn run`") for path in sorted(folder.glob(CRASH))),
        tuple(_read_dla_build(path) for path in sorted(folder.glob(DLA_LOG))),
    )


def _read_dla_build(path: Path) -> ResultFile:
    build = read_dla_log(path)
    graphs = sorted(path.parent.parent.glob("model.*.onnx"))
    if not any(sha256_of(graph) == build.dla_graph_sha256 for graph in graphs):
        raise MeasurementError(
            f"{path}: a build of another graph than those of this run ({len(graphs)} graphs in {path.parent.parent})",
            "make the bundle and the build again: edgecnn bundle RUN --for trtexec --dla 0 -o DIR",
        )
    return ResultFile(path, build, None)


def read_latency(path: Path) -> ResultFile:
    """A file of `edgecnn run` or `edgecnn bench`; raises `ArtifactError` for another, `MeasurementError` where it has
    several measurements of one engine, of which none can be judged for all."""
    file = _read(LatencyFile, path, "`edgecnn bench`")
    names = [row.latency.name for row in file.content.measurements]
    if twice := next((name for name in names if names.count(name) > 1), None):
        batches = ", ".join(str(r.latency.batch) for r in file.content.measurements if r.latency.name == twice)
        raise MeasurementError(
            f"{path}: {twice} was measured more than once (batch {batches})", "bench one batch size to be judged"
        )
    return file


def read_report(path: Path) -> tuple[RunReport, Sidecar]:
    """A `report.json` and what made it; raises `ArtifactError` for another file."""
    file = _read(RunReport, path, "`edgecnn gate`")
    if file.provenance is None:
        raise ArtifactError(f"{path}: does not say what made it", "run `edgecnn run` again")
    return file.content, file.provenance


def read_gradients(folder: Path) -> GradientNorms | None:
    """The gradient norms that a training recorded in its run folder, if it did; raises `ArtifactError` for a damaged
    file."""
    path = folder / GRADIENTS
    if not path.is_file():
        return None
    found: GradientNorms = _read(GradientNorms, path, "`edgecnn train`").content
    rows = {len(found.layers)} | {len(row) for row in found.norms}
    negative = any(norm < 0 for row in found.norms for norm in row)
    if len(rows) != 1 or len(found.norms) != len(found.epochs) or not found.layers or not found.epochs or negative:
        raise ArtifactError(
            f"{path}: its rows do not belong together, or are no norms", "make it again: `edgecnn train`"
        )
    return found


def find_sensitivity(folder: Path, graph_sha256: str) -> ResultFile | None:
    """The newest `Sensitivity` of all nodes of a graph that lies in a run's folder; raises `ArtifactError` for a
    damaged one."""
    files = [_read(Sensitivity, path, "`edgecnn sensitivity`") for path in sorted(folder.glob(f"*.{ENDING}"))]
    whole = [f for f in files if f.content.graph_sha256 == graph_sha256 and not f.content.nodes]
    return max(whole, key=lambda file: file.provenance.created if file.provenance else "", default=None)


def holds_results(folder: Path) -> bool:
    """Whether anything was measured in a target's folder."""
    return (folder / LATENCY).exists() or any(folder.glob(ACCURACY)) or any(folder.glob(CRASH))


def _read(kind: type[Any], path: Path, command: str) -> ResultFile:
    content = read_json(path)
    again = f"remove it, and make it again: {command} or `edgecnn run`"
    provenance = sidecar_from_json(path, content["provenance"]) if "provenance" in content else None
    found = record_from_mapping(kind, content, f"{path}: damaged, or of another version", again)
    return ResultFile(path, found, provenance)
