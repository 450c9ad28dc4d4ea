"""Judge and report what stands in a run folder, without measuring anything again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact import Sidecar, parents_of, read_json, write_json_artifact
from edgecnn.errors import MeasurementError, RecipeError
from edgecnn.gate import accepted_numbers, judge
from edgecnn.pipeline.run import run_folder
from edgecnn.pipeline.verdicts import accepted_path, device_key, judge_target, measurements_of, report_of
from edgecnn.recipe import Recipe, load_recipe


def find_run(run_or_recipe: str) -> tuple[Recipe, list[Path]]:
    """The recipe and the measured target folders of a run folder, of one of its targets, or of a recipe's run.

    Raises `MeasurementError` when nothing was measured there, `RecipeError` when the recipe is not to be found.
    """
    folder = Path(run_or_recipe)
    if not folder.is_dir():
        recipe = load_recipe(run_or_recipe)
        return recipe, _measured(run_folder(recipe, None))
    targets = _measured(folder)
    names = {str(read_json(p)["provenance"]["recipe"]) for t in targets for p in _results(t)}
    if len(names) != 1 or "" in names:
        raise RecipeError(
            f"{folder}: which recipe it belongs to is not known", "name the recipe: `edgecnn gate RECIPE`"
        )
    return load_recipe(names.pop()), targets


def gate_run(recipe: Recipe, targets: Sequence[Path], *, record: bool = False) -> list[dict[str, Any]]:
    """Judge every target folder, write its verdict.json, and give what a report shows of it.

    With `record` the numbers are not compared with the accepted ones but become them; numbers that fail the recipe's
    own tolerances are refused (`MeasurementError`).
    """
    results = []
    for folder in targets:
        measurements = measurements_of(folder)
        verdict = judge(recipe.tolerances, measurements) if record else judge_target(recipe, folder)
        provenance = Sidecar(
            kind="verdict",
            made_by=f"edgecnn gate {recipe.name}",
            recipe=recipe.name,
            fields=recipe.values("tolerances"),
            parents=parents_of(folder / "verdict.json", *_results(folder)),
        )
        write_json_artifact(folder / "verdict.json", verdict.to_json(), provenance)
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


def report_run(run: str) -> dict[str, Any]:
    """What a report shows of one judged target folder; raises `MeasurementError` where there are several, or none."""
    recipe, targets = find_run(run)
    judged = [t for t in targets if (t / "verdict.json").exists()]
    if len(judged) != 1:
        found = ", ".join(str(t) for t in judged)
        raise MeasurementError(
            f"{run}: {'targets ' + found if judged else 'nothing was judged there'}",
            "name one of them" if judged else "run `edgecnn gate` first",
        )
    return report_of(recipe, judged[0])


def _record(recipe: Recipe, found: dict[str, Any]) -> None:
    if found["verdict"]["verdict"] == "FAIL":
        failed = next(j for j in found["verdict"]["judgements"] if j["verdict"] == "FAIL")
        raise MeasurementError(
            f"{recipe.name} on {found['target']}: not recorded, {failed['name']} fails {failed['tolerance']} "
            f"({failed['evidence']})",
            "only numbers that keep the recipe's tolerances can be accepted",
        )
    path = accepted_path(recipe, found["device"])
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
