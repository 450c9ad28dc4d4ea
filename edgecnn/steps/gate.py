"""Judge what stands in a run folder, without measuring anything again."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import replace
from pathlib import Path

from edgecnn.artifact.run_folder import VERDICT, TargetRun
from edgecnn.artifact.sidecar import Sidecar, parents_of, read_json, sha256_of, sidecar_from_json
from edgecnn.artifact.write import write_json_artifact
from edgecnn.errors import MeasurementError
from edgecnn.gate.accuracy_baseline import ANEW, Files, file_key, record_accuracies, with_baseline_drops
from edgecnn.gate.baseline import baseline_of
from edgecnn.gate.judge import judge, worst_of
from edgecnn.recipe.schema import RENAMED, Recipe, fields_of, settings_rows
from edgecnn.recipe.variants import variants_of
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.accuracy_baseline import AccuracyBaselines
from edgecnn.results.baseline import Baseline
from edgecnn.results.device import Device
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Verdict
from edgecnn.targets import find_target

PLACES = ("data.source", "data.calibration", "data.calibration_source")


def gate(run: TargetRun, recipe: Recipe, *, against_baseline: bool = True) -> Verdict:
    """Judge a target's results by the recipe's tolerances and by the baseline of its device, if any, and write its
    `verdict.json`, where the folder can be written to. An engine that the recipe asks for and that was not measured
    leaves the verdict open. Of several builds the worst decides, check by check.

    Raises `MeasurementError` for results of other settings than the recipe has, or of engines that are not there any
    more as they were measured.
    """
    for one in (run, *run.builds):
        require_settings(recipe, one)
        require_current(one)
    path = baseline_path(recipe, run.device)
    baseline = path if against_baseline and path.exists() else None
    tolerances, wanted = recipe.tolerances, variants_of(recipe, on_cpu=find_target(run.target).kind == "cpu")
    if not against_baseline:
        tolerances = replace(tolerances, top1_regression_pp_max=None)
    numbers, verdicts = read_baseline(baseline) if baseline else None, list[Verdict]()
    for one in run.builds or (run,):
        judged = judged_measurements(one, recipe)
        if not against_baseline:
            judged = tuple(replace(m, baseline_drops=()) for m in judged)
        verdicts.append(judge(tolerances, judged, baseline=numbers, device=run.device, wanted=wanted))
    verdict = worst_of(verdicts)
    fields: dict[str, object] = {}
    for result in run.results:
        fields |= result.provenance.fields if result.provenance else {}
    output = run.folder / VERDICT
    provenance = Sidecar(
        kind="verdict",
        made_by="edgecnn gate",
        recipe=recipe.name,
        target=run.target,
        fields=fields | fields_of("tolerances", recipe.tolerances),
        parents=parents_of(
            output,
            *[r.path for one in (run, *run.builds) for r in one.results],
            *([baseline] if baseline else ()),
            *(accuracy_baseline_files(recipe, run) if against_baseline else ()),
        ),
    )
    if is_writable(run.folder):
        write_json_artifact(output, to_plain(verdict), provenance)
    return verdict


def judged_measurements(run: TargetRun, recipe: Recipe) -> tuple[Measurement, ...]:
    """What was measured of a target, with what it lost against the accuracies that were accepted for the recipe.

    Raises `MeasurementError` for a baseline of another recipe or test set, `ArtifactError` for a damaged one.
    """
    return with_baseline_drops(run.measurements, _read_accuracy_baselines(recipe, run))


def accuracy_baseline_files(recipe: Recipe, run: TargetRun) -> list[Path]:
    """Those that are there for the engines of a run."""
    paths = [accuracy_baseline_path(recipe, *file_key(m.engine)) for m in run.measurements]
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def accuracy_baseline_path(recipe: Recipe, backend: str, precision: str) -> Path:
    """Where the accuracies of a recipe's engines stand: beside the recipe used, whatever the device."""
    return baseline_folder(recipe) / re.sub(r"[^a-z0-9.]+", "-", f"{backend}-{precision}.json".lower())


def baseline_folder(recipe: Recipe) -> Path:
    """Where all baselines of a recipe stand."""
    return recipe.path.parent / "baselines" / recipe.name


def _read_accuracy_baselines(recipe: Recipe, run: TargetRun) -> Files:
    found: Files = {}
    for path in accuracy_baseline_files(recipe, run):
        content = read_json(path)
        file = record_from_mapping(AccuracyBaselines, content, f"{path}: not a baseline of accuracies", ANEW)
        recorded_for = sidecar_from_json(path, content.get("provenance")).recipe
        if recorded_for != recipe.name:
            raise MeasurementError(
                f"{path}: a baseline of the recipe {recorded_for or '(unknown)'}, not of {recipe.name}",
                "put it into the folder of its recipe, and record this one's with `edgecnn gate --record`",
            )
        found[file.backend, file.precision] = file
    return found


def is_writable(folder: Path) -> bool:
    """Whether a verdict can be kept in a target's folder: one that was mounted read-only is judged all the same."""
    return os.access(folder, os.W_OK | os.X_OK)


def baseline_path(recipe: Recipe, device: Device) -> Path:
    """Where the baseline of a recipe stands for a device: beside the recipe used. Raises `MeasurementError` where only
    an earlier version's does."""
    path = baseline_folder(recipe) / f"{device.key}.json"
    before = recipe.path.parent / "accepted" / recipe.name / path.name
    if before.exists() and not path.exists():
        raise MeasurementError(
            f"{before}: a baseline lies where earlier versions looked for it", f"move it to {path}, and commit that"
        )
    return path


def read_baseline(path: Path) -> Baseline:
    """A baseline from its file; raises `ArtifactError` for another."""
    return record_from_mapping(
        Baseline, read_json(path), f"{path}: not a baseline", "record it again: `edgecnn gate RUN --record`"
    )


def record(run: TargetRun, recipe: Recipe, verdict: Verdict) -> Path:
    """Make the run's latencies the baseline of its device, and its accuracies those of the recipe; raises
    `MeasurementError` for numbers that fail the recipe's own tolerances, for a run without a device, for accuracies on
    another test set than the recorded ones, and for a recipe that came with the installation."""
    where = f"{recipe.name} on {run.target}"
    if verdict.verdict == "FAIL":
        failed = next(check for check in verdict.checks if check.verdict == "FAIL")
        raise MeasurementError(
            f"{where}: not recorded, {failed.name} fails {failed.tolerance} ({failed.evidence})",
            "only numbers that keep the recipe's tolerances can be accepted",
        )
    if not run.device:
        raise MeasurementError(
            f"{where}: not recorded, no latency.json says which device this is",
            "bench first: `edgecnn run RECIPE`, or `edgecnn bench -o latency.json` in the target's folder",
        )
    path = baseline_path(recipe, run.device)
    if "_packaged" in path.parts:
        raise MeasurementError(
            f"{recipe.path}: came with the installation, so no baseline is kept beside it",
            f"copy it first: `edgecnn recipe copy {recipe.name}`",
        )
    provenance = Sidecar(
        kind="baseline", made_by="edgecnn gate --record", recipe=recipe.name, target=run.target, device=run.device
    )
    accuracies = record_accuracies(run.measurements, _read_accuracy_baselines(recipe, run))
    for key, file in accuracies.items():
        of_accuracy = replace(provenance, device=None)
        write_json_artifact(accuracy_baseline_path(recipe, *key), to_plain(file), of_accuracy)
    write_json_artifact(path, to_plain(baseline_of(run.measurements, run.device)), provenance)
    return path


def require_settings(recipe: Recipe, run: TargetRun) -> None:
    """Raise `MeasurementError` when the run was made with other settings than the recipe has now. Where the images lie
    is none: they are known by their ids and labels."""
    settings = dict(settings_rows(recipe))
    for result in run.results:
        for key, value in (result.provenance.fields if result.provenance else {}).items():
            now = settings.get(RENAMED.get(key, key))
            if key not in PLACES and now != value:
                raise MeasurementError(
                    f"{result.path}: measured with {key} = {value!r}, {recipe.path} has {now!r}",
                    "measure again: `edgecnn run RECIPE`, or judge it by a recipe that differs in tolerances alone",
                )


def require_current(run: TargetRun) -> None:
    """Raise `MeasurementError` when an engine or reference is no longer the one that was measured."""
    known = functools.cache(sha256_of)  # the reference is a parent of every accuracy
    for result in run.results:
        for name, digest in (result.provenance.parents if result.provenance else {}).items():
            parent = run.folder / name
            if parent.is_file() and known(parent) != digest:
                raise MeasurementError(
                    f"{result.path}: measured with another {name} than the one that is there now",
                    "measure again: `edgecnn run RECIPE`, or `edgecnn validate` and `edgecnn bench`",
                )
