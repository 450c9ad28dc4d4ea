"""What a report shows of one judged target."""

from __future__ import annotations

from pathlib import Path

from edgecnn.artifact.run_folder import REPORT, TargetRun
from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sha256_of, sidecar_path
from edgecnn.artifact.write import write_bytes, write_json_artifact
from edgecnn.errors import MeasurementError
from edgecnn.gate.recommendation import recommended_int8
from edgecnn.machine.cpu import int8_guard
from edgecnn.recipe.schema import Recipe
from edgecnn.records import to_plain
from edgecnn.report.markdown import markdown_report
from edgecnn.results.device import Device
from edgecnn.results.engine import CPU_PROVIDER, FREEDOM
from edgecnn.results.report import ArtifactFacts, RunReport
from edgecnn.results.verdict import MEASURED, Check, Verdict
from edgecnn.steps.gate import judged_measurements, require_current


def report(run: TargetRun, recipe: Recipe) -> RunReport:
    """Write the report of a judged target as `report.json` and `report.md` into its folder."""
    found = report_of(run, recipe)
    assert run.verdict is not None
    output = run.folder / REPORT
    fields: dict[str, object] = run.verdict.provenance.fields if run.verdict.provenance else {}
    provenance = Sidecar(
        kind="report",
        made_by="edgecnn report",
        recipe=recipe.name,
        target=run.target,
        fields={**fields, "title": recipe.title},
        parents=parents_of(output, run.verdict.path),
    )
    write_bytes(output.with_suffix(".md"), markdown_report(found).encode())
    write_json_artifact(output, to_plain(found), provenance)
    return found


def report_of(run: TargetRun, recipe: Recipe, verdict: Verdict | None = None) -> RunReport:
    """Everything that a report shows: measurements, verdict, what made each artifact, what belongs to the numbers.

    Without a `verdict` that of the folder is taken. Raises `MeasurementError` where that is on other measurements or by
    another recipe than the report would show.
    """
    if verdict is None:
        require_current(run)
        verdict = _verdict_of(run, recipe)
    return RunReport(
        recipe=recipe.name,
        title=recipe.title,
        target=run.target,
        device=run.device,
        device_key=run.device.key,
        reference=run.reference,
        measurements=judged_measurements(run, recipe),
        verdict=verdict,
        artifacts=tuple(_facts(path, run.folder) for path in _artifacts(run.folder)),
        notes=(*_notes(run), *filter(None, [recommended_int8(run.measurements, verdict)])),
    )


def report_of_unmeasured(target: str, recipe: Recipe) -> RunReport:
    """A target that the recipe names and of which nothing was measured: open, whatever the recipe says."""
    why = (
        f"{target}: not measured: go on there with `edgecnn run RECIPE --target {target}`, or judge one target's folder"
    )
    check = Check(target, MEASURED, None, None, None, "INCONCLUSIVE", why, mappable=False)
    return RunReport(
        recipe=recipe.name,
        title=recipe.title,
        target=target,
        device=Device(),
        device_key="",
        reference=None,
        measurements=(),
        verdict=Verdict((check,)),
        artifacts=(),
        notes=(),
    )


def _verdict_of(run: TargetRun, recipe: Recipe) -> Verdict:
    if run.verdict is None:
        raise MeasurementError(f"{run.folder}: nothing was judged there", "run `edgecnn gate` first")
    verdict: Verdict = run.verdict.content
    made = run.verdict.provenance
    judged_by = made.recipe if made else ""
    if judged_by != recipe.name:
        raise MeasurementError(
            f"{run.verdict.path}: judged by the recipe {judged_by or '(unknown)'}, not by {recipe.name}",
            "judge it by this one: `edgecnn gate RUN --recipe RECIPE`",
        )
    parents = made.parents if made else {}
    if other := [r.path.name for r in run.results if parents.get(r.path.name) != r.sha256]:
        raise MeasurementError(
            f"{run.verdict.path}: judged before {other[0]} was measured as it is now", "judge again: `edgecnn gate RUN`"
        )
    for name, digest in parents.items():  # baselines, which lie elsewhere
        if (path := run.folder / name).is_file() and sha256_of(path) != digest:
            raise MeasurementError(
                f"{run.verdict.path}: judged against another {path.name} than the one that is there now",
                "judge again: `edgecnn gate RUN`",
            )
    return verdict


def _notes(run: TargetRun) -> list[str]:
    notes = [f"{m.name} is {m.engine.simulation}" for m in run.measurements if m.engine.simulated]
    notes += [f"{m.name}: {FREEDOM}" for m in run.measurements if m.engine.scheme == "implicit"]
    notes += [
        f"{m.name}: {m.own_ratio.why_not_int8}" for m in run.measurements if m.own_ratio and m.own_ratio.why_not_int8
    ]
    notes += [f"{m.name}: {m.rebuilds.in_words}" for m in run.measurements if m.rebuilds]
    on_cpu = any(m.engine.provider == CPU_PROVIDER for m in run.measurements)
    return [*notes, *([guard] if on_cpu and (guard := int8_guard()) else [])]


def _artifacts(folder: Path) -> list[Path]:
    """Every file of the run, and of the target's folder, that has a sidecar; and the ranges, which carry theirs."""
    own = [p for where in (folder.parent, folder) for p in sorted(where.iterdir()) if sidecar_path(p).exists()]
    return [*own, *sorted(folder.parent.glob("*.calib.json"))]


def _facts(path: Path, folder: Path) -> ArtifactFacts:
    sidecar = read_sidecar(path)
    return ArtifactFacts(
        path=str(path.relative_to(folder.parent)),
        kind=sidecar.kind,
        made_by=sidecar.made_by,
        sha256=sidecar.sha256,
        parents=tuple(sorted(sidecar.parents)),
        tools=sidecar.tools,
        created=sidecar.created,
        size_mb=round(path.stat().st_size / 1e6, 6),
    )
