"""Judge and report what stands in a run folder, without measuring anything again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_json, read_sidecar, sha256_of
from edgecnn.artifact.write import write_json_artifact
from edgecnn.errors import MeasurementError, RecipeError, WriteError
from edgecnn.gate import accepted_numbers
from edgecnn.pipeline.run import run_folder
from edgecnn.pipeline.tasks import accepted_path, all_tasks, device_key
from edgecnn.pipeline.verdicts import accepted_used, judge_target, report_of
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe, settings_rows


def find_run(run_or_recipe: str, recipe_name: str = "") -> tuple[Recipe, list[Path]]:
    """The recipe and the measured target folders of a run folder, of one of its targets, or of a recipe's run.

    A folder's recipe is the one that its results name, or `recipe_name`. Raises `MeasurementError` when nothing was
    measured there, `RecipeError` when the recipe is not to be found.
    """
    if not Path(run_or_recipe).is_dir():
        recipe = load_recipe(run_or_recipe)
        return recipe, _measured(run_folder(recipe, None))
    folder = Path(run_or_recipe)
    if not folder.name or folder.name == "..":  # a target is known by its folder's name
        folder = folder.resolve()
    targets = _measured(folder)
    if recipe_name:
        return load_recipe(recipe_name), targets
    names = {str(_provenance(p).get("recipe", "")) for t in targets for p in _results(t)}
    if len(names) != 1 or "" in names:
        raise RecipeError(
            f"{folder}: which recipe it belongs to is not known", "name the recipe: `edgecnn gate RUN --recipe RECIPE`"
        )
    return load_recipe(names.pop()), targets


def gate_run(recipe: Recipe, targets: Sequence[Path], *, record: bool = False) -> list[dict[str, Any]]:
    """Judge every target folder, write its verdict.json, and give what a report shows of it.

    With `record` the numbers are not compared with the accepted ones but become them; numbers that fail the recipe's
    own tolerances are refused (`MeasurementError`).
    """
    results = []
    for folder in targets:
        _require_settings(recipe, folder)
        _require_current(folder)
        verdict = judge_target(recipe, folder, against_accepted=not record)
        path = folder / "verdict.json"
        found_accepted = None if record else accepted_used(recipe, folder)
        keys = next((t.keys for t in all_tasks(recipe, folder.parent) if t.output == path), ("tolerances",))
        provenance = Sidecar(
            kind="verdict",
            made_by=f"edgecnn gate {recipe.name}",
            recipe=recipe.name,
            fields=recipe.values(*keys),  # those of `edgecnn run`, which then finds nothing to judge again
            parents=parents_of(path, *_results(folder), *([found_accepted] if found_accepted else ())),
        )
        write_json_artifact(path, verdict.to_json(), provenance)
        found = report_of(recipe, folder)
        if record:
            _record(recipe, found)
        results.append({**found, "accepted": accepted_for(recipe, found["device"])})
    return results


def accepted_for(recipe: Recipe, device: dict[str, Any]) -> dict[str, Any] | None:
    """The numbers accepted for a device, or None."""
    path = accepted_path(recipe, device)
    return {k: v for k, v in read_json(path).items() if k != "provenance"} if path.exists() else None


def exit_code(results: Sequence[dict[str, Any]]) -> int:
    """The worst of the targets: 1 failed, 3 inconclusive, 0 passed."""
    codes = {int(r["verdict"]["exit_code"]) for r in results}
    return next((code for code in (1, 3) if code in codes), 0)


def _require_settings(recipe: Recipe, folder: Path) -> None:
    """Raise `MeasurementError` when the run was made with other settings than the recipe has now."""
    settings = dict(settings_rows(recipe))
    for result in _results(folder):
        for key, value in _provenance(result).get("fields", {}).items():
            if settings.get(key) != value:
                raise MeasurementError(
                    f"{result}: measured with {key} = {value!r}, {recipe.path} has {settings.get(key)!r}",
                    "measure again: `edgecnn run RECIPE`, or judge it by a recipe that differs in tolerances alone",
                )


def _require_current(folder: Path) -> None:
    """Raise `MeasurementError` when an engine or reference is no longer the one that was measured."""
    for result in _results(folder):
        for name, digest in _provenance(result).get("parents", {}).items():
            parent = folder / name
            if parent.is_file() and sha256_of(parent) != digest:
                raise MeasurementError(
                    f"{result}: measured with another {name} than the one that is there now",
                    "measure again: `edgecnn run RECIPE`, or `edgecnn validate` and `edgecnn bench`",
                )


def _provenance(path: Path) -> dict[str, Any]:
    return dataclasses.asdict(read_sidecar(path)) if "provenance" in read_json(path) else {}


def report_run(run: str, recipe_name: str = "", output: Path | None = None) -> dict[str, Any]:
    """What a report shows of one judged target folder, to be written to `output`.

    Raises `MeasurementError` where there are several, or none, or where the verdict is on other measurements or by
    another recipe than the report would show, `WriteError` for an output that is read from.
    """
    recipe, targets = find_run(run, recipe_name)
    require_no_input(targets, output)
    judged = [t for t in targets if (t / "verdict.json").exists()]
    if len(judged) != 1:
        found = ", ".join(str(t) for t in judged)
        raise MeasurementError(
            f"{run}: {'targets ' + found if judged else 'nothing was judged there'}",
            "name one of them" if judged else "run `edgecnn gate` first",
        )
    _require_current(judged[0])
    _require_judged(recipe, judged[0])
    return report_of(recipe, judged[0])


def require_no_input(targets: Sequence[Path], *outputs: Path | None) -> None:
    """Refuse outputs that are among the files of a target folder that are judged; raises `WriteError`."""
    sources = {s.resolve() for folder in targets for s in (*_results(folder), folder / "verdict.json")}
    for output in outputs:
        if output is not None and output.resolve() in sources:
            raise WriteError(f"{output}: would be overwritten: it is read from", "choose another file")


def _require_judged(recipe: Recipe, folder: Path) -> None:
    path = folder / "verdict.json"
    judged_by, parents = _provenance(path).get("recipe"), _provenance(path).get("parents", {})
    if judged_by != recipe.name:
        raise MeasurementError(
            f"{path}: judged by the recipe {judged_by}, not by {recipe.name}",
            "judge it by this one: `edgecnn gate RUN --recipe RECIPE`",
        )
    measured = {result.name: sha256_of(result) for result in _results(folder)}
    if other := [name for name, digest in measured.items() if parents.get(name) != digest]:
        raise MeasurementError(
            f"{path}: judged before {other[0]} was measured as it is now", "judge again: `edgecnn gate RUN`"
        )


def _record(recipe: Recipe, found: dict[str, Any]) -> None:
    if found["verdict"]["verdict"] == "FAIL":
        failed = next(j for j in found["verdict"]["judgements"] if j["verdict"] == "FAIL")
        raise MeasurementError(
            f"{recipe.name} on {found['target']}: not recorded, {failed['name']} fails {failed['tolerance']} "
            f"({failed['evidence']})",
            "only numbers that keep the recipe's tolerances can be accepted",
        )
    path = accepted_path(recipe, found["device"])
    if not found["device"]:
        raise MeasurementError(
            f"{recipe.name} on {found['target']}: not recorded, no latency.json says which device this is",
            "bench first: `edgecnn run RECIPE`, or `edgecnn bench -o latency.json` in the target's folder",
        )
    if "_packaged" in path.parts:
        raise MeasurementError(
            f"{recipe.path}: came with the installation, so no accepted numbers are kept beside it",
            f"copy it first: `edgecnn recipe copy {recipe.name}`",
        )
    content = accepted_numbers(found["measurements"], device_key(found["device"]))
    provenance = Sidecar(
        kind="accepted numbers",
        made_by=f"edgecnn gate {recipe.name} --record",
        recipe=recipe.name,
        device=found["device"],
    )
    write_json_artifact(path, content, provenance)


def _measured(folder: Path) -> list[Path]:
    found = [f for f in [folder, *sorted(p for p in folder.glob("*") if p.is_dir())] if _results(f)]
    if not found:
        raise MeasurementError(
            f"{folder}: nothing was measured there",
            "run `edgecnn run RECIPE`, or `edgecnn validate` and `edgecnn bench`",
        )
    return found


def _results(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("*.accuracy.json")), *(p for p in [folder / "latency.json"] if p.exists())]
