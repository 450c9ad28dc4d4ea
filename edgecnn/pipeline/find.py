"""The recipe and the measured targets of a run, by the name of either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact.run_folder import VERDICT, TargetRun, holds_results, read_target_run
from edgecnn.errors import MeasurementError, RecipeError, WriteError
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe


def run_folder(recipe: Recipe, out: Path | None) -> Path:
    """Where a recipe's artifacts go: `./runs/<recipe>/` unless said otherwise."""
    return out if out is not None else Path("runs") / recipe.name


def find_run(run_or_recipe: str, recipe_name: str = "") -> tuple[Recipe, list[TargetRun]]:
    """The recipe and the measured targets of a run folder, of one of its targets, or of a recipe's run.

    A folder's recipe is the one that its results name, or `recipe_name`. Raises `MeasurementError` when nothing was
    measured there, `RecipeError` when the recipe is not to be found.
    """
    if not Path(run_or_recipe).is_dir():
        recipe = load_recipe(run_or_recipe)
        return recipe, _measured(run_folder(recipe, None))
    folder = Path(run_or_recipe)
    runs = _measured(folder)
    if recipe_name:
        return load_recipe(recipe_name), runs
    names = {result.provenance.recipe if result.provenance else "" for run in runs for result in run.results}
    if len(names) != 1 or "" in names:
        raise RecipeError(
            f"{folder}: which recipe it belongs to is not known", "name the recipe: `edgecnn gate RUN --recipe RECIPE`"
        )
    return load_recipe(names.pop()), runs


def unmeasured_targets(run_or_recipe: str, recipe: Recipe, runs: Sequence[TargetRun]) -> list[str]:
    """The targets of a recipe of which nothing was measured in its run; none where one target's folder was named."""
    if Path(run_or_recipe).is_dir() and holds_results(Path(run_or_recipe)):
        return []
    measured = {run.target for run in runs}
    return [name for name in recipe.targets if name not in measured]


def find_judged(run_or_recipe: str, recipe_name: str = "", output: Path | None = None) -> tuple[Recipe, TargetRun]:
    """The one judged target of a run; raises `MeasurementError` where there are several, or none, and `WriteError` for
    an `output` that is one of its files."""
    recipe, runs = find_run(run_or_recipe, recipe_name)
    require_no_input(runs, output)
    judged = [run for run in runs if run.verdict is not None]
    if len(judged) != 1:
        found = ", ".join(str(run.folder) for run in judged)
        raise MeasurementError(
            f"{run_or_recipe}: {'targets ' + found if judged else 'nothing was judged there'}",
            "name one of them" if judged else "run `edgecnn gate` first",
        )
    return recipe, judged[0]


def require_no_input(runs: Sequence[TargetRun], *outputs: Path | None) -> None:
    """Refuse outputs that are among the files that are judged; raises `WriteError`."""
    sources = {r.path.resolve() for run in runs for r in run.results} | {(r.folder / VERDICT).resolve() for r in runs}
    for output in outputs:
        if output is not None and output.resolve() in sources:
            raise WriteError(f"{output}: would be overwritten: it is read from", "choose another file")


def _measured(folder: Path) -> list[TargetRun]:
    found = [f for f in [folder, *sorted(p for p in folder.glob("*") if p.is_dir())] if holds_results(f)]
    if not found:
        raise MeasurementError(
            f"{folder}: nothing was measured there",
            "run `edgecnn run RECIPE`, or `edgecnn validate` and `edgecnn bench`",
        )
    return [read_target_run(f) for f in found]
