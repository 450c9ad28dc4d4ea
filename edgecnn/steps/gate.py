"""Judge what stands in a run folder, without measuring anything again."""

from __future__ import annotations

from pathlib import Path

from edgecnn.artifact.run_folder import VERDICT, TargetRun
from edgecnn.artifact.sidecar import Sidecar, parents_of, read_json, sha256_of
from edgecnn.artifact.write import write_json_artifact
from edgecnn.errors import MeasurementError
from edgecnn.gate.baseline import baseline_of
from edgecnn.gate.judge import judge
from edgecnn.recipe.schema import RENAMED, Recipe, fields_of, settings_rows
from edgecnn.recipe.variants import variants_of
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.baseline import Baseline
from edgecnn.results.device import Device
from edgecnn.results.verdict import Verdict
from edgecnn.targets import find_target

PLACES = ("data.source", "data.calibration", "data.calibration_source")


def gate(run: TargetRun, recipe: Recipe, *, against_baseline: bool = True) -> Verdict:
    """Judge a target's results by the recipe's tolerances and by the baseline of its device, if any, and write its
    `verdict.json`. An engine that the recipe asks for and that was not measured leaves the verdict open.

    Raises `MeasurementError` for results of other settings than the recipe has, or of engines that are not there any
    more as they were measured.
    """
    require_settings(recipe, run)
    require_current(run)
    path = baseline_path(recipe, run.device)
    baseline = path if against_baseline and path.exists() else None
    on_cpu = find_target(run.target).kind == "cpu"
    verdict = judge(
        recipe.tolerances,
        run.measurements,
        baseline=read_baseline(baseline) if baseline else None,
        device=run.device,
        wanted=variants_of(recipe, on_cpu=on_cpu),
    )
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
        parents=parents_of(output, *[r.path for r in run.results], *([baseline] if baseline else ())),
    )
    write_json_artifact(output, to_plain(verdict), provenance)
    return verdict


def baseline_path(recipe: Recipe, device: Device) -> Path:
    """Where the baseline of a recipe stands for a device: beside the recipe used. Raises `MeasurementError` where only
    an earlier version's does."""
    path = recipe.path.parent / "baselines" / recipe.name / f"{device.key}.json"
    before = recipe.path.parent / "accepted" / recipe.name / path.name
    if before.exists() and not path.exists():
        raise MeasurementError(
            f"{before}: a baseline lies where earlier versions looked for it", f"move it to {path}, and commit that"
        )
    return path


def read_baseline(path: Path) -> Baseline:
    """A baseline from its file; raises `ArtifactError` for another."""
    return record_from_mapping(
        Baseline, read_json(path), f"{path}: not a baseline", "record it again: `edgecnn gate --record`"
    )


def record(run: TargetRun, recipe: Recipe, verdict: Verdict) -> Path:
    """Make the run's numbers the baseline of its device; raises `MeasurementError` for numbers that fail the recipe's
    own tolerances, for a run without a device, and for a recipe that came with the installation."""
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
    for result in run.results:
        for name, digest in (result.provenance.parents if result.provenance else {}).items():
            parent = run.folder / name
            if parent.is_file() and sha256_of(parent) != digest:
                raise MeasurementError(
                    f"{result.path}: measured with another {name} than the one that is there now",
                    "measure again: `edgecnn run RECIPE`, or `edgecnn validate` and `edgecnn bench`",
                )
