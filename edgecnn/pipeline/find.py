"""The recipe and the measured targets of a run, by the name of either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact.run_folder import VERDICT, TargetRun, holds_results, read_target_run
from edgecnn.errors import MeasurementError, RecipeError, WriteError, nearest
from edgecnn.pipeline.device import Say, require_whole, unpack, unpacked
from edgecnn.recipe.load import find_recipe, load_recipe
from edgecnn.recipe.location import require_here
from edgecnn.recipe.schema import Recipe
from edgecnn.report.compare import Column
from edgecnn.results.verdict import Verdict
from edgecnn.steps.recipe_copy import carried_recipe, differs_from_its_file
from edgecnn.steps.report import report_of


def run_folder(recipe: Recipe, out: Path | None) -> Path:
    """Where a recipe's artifacts go: `./runs/<recipe>/` unless said otherwise."""
    return out if out is not None else Path("runs") / recipe.name


def find_recipe_and_folder(
    source: str,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    say: Say = lambda line: None,
    *,
    data: str = "",
    calibration_data: str = "",
    write: bool = True,
) -> tuple[Recipe, Path]:
    """The recipe to run and the folder to run it in, by a recipe's name or path, a run folder, which carries its
    recipe, or a bundle, which is unpacked first unless nothing may be written. Raises the errors of each."""
    require_here(data, "--data")
    require_here(calibration_data, "--calibration-data")
    path = Path(source)
    if ".tar" in path.suffixes[:-1] or path.suffix in (".tgz", ".TAR"):
        raise RecipeError(
            f"{path}: a bundle is an uncompressed .tar", f"unpack it to {path.name.split('.')[0]}.tar first"
        )
    if path.suffix == ".tar" and not path.is_dir():
        path = unpack(path, out, say) if write else unpacked(path, out)
    elif not path.is_dir():
        recipe = load_recipe(source, overrides, data=data, calibration_data=calibration_data)
        return recipe, run_folder(recipe, out)
    elif out is not None and out.resolve() != path.resolve():
        raise RecipeError(
            f"{path}: is a run folder, and --out names {out}", f"name its recipe to run it there: {path}/NAME.toml"
        )
    require_whole(path)
    carried = carried_recipe(path, overrides, data=data, calibration_data=calibration_data)
    if carried is None:
        raise RecipeError(f"{path}: carries no recipe", "name the recipe: `edgecnn run RECIPE --out FOLDER`")
    return carried, path


def find_run(run_or_recipe: str, recipe_name: str = "", say: Say = lambda line: None) -> tuple[Recipe, list[TargetRun]]:
    """The recipe and the measured targets of a run folder, of one of its targets, or of a recipe's run.

    A folder's recipe is `recipe_name`, else the one that it carries, else the one that its results name. Where the file
    that a carried recipe came from says something else by now, `say` is told. Raises `MeasurementError` when nothing
    was measured there, `RecipeError` when the recipe is not to be found.
    """
    if not Path(run_or_recipe).is_dir():
        recipe = load_recipe(_find_recipe_of_run(run_or_recipe))
        return recipe, _measured(run_folder(recipe, None))
    folder = Path(run_or_recipe)
    runs = _measured(folder)
    if recipe_name:
        return load_recipe(recipe_name), runs
    for own in (folder, folder.parent):
        if (carried := carried_recipe(own)) is not None:
            if differs_from_its_file(own, carried):
                say(f"{own}: judged by the recipe that the run carries; {carried.path} says something else by now")
            return carried, runs
    names = {result.provenance.recipe if result.provenance else "" for run in runs for result in run.results}
    if len(names) != 1 or "" in names:
        raise RecipeError(
            f"{folder}: which recipe it belongs to is not known", "name the recipe: `edgecnn gate RUN --recipe RECIPE`"
        )
    return load_recipe(names.pop()), runs


def _find_recipe_of_run(name: str) -> str:
    """The file of a recipe whose run is asked for; where there is none, its run may carry it, which the hint says."""
    try:
        return str(find_recipe(name))
    except RecipeError as exc:
        folder = Path("runs") / name
        if (carried := carried_recipe(folder)) is not None:
            raise RecipeError(exc.message, f"a run of {carried.name} carries its recipe: name {folder}") from exc
        here = Path(name).parent if "/" in name else Path("runs")
        there = [str(path) for path in here.glob("*") if path.is_dir()]
        raise RecipeError(f"no run folder {name!r}, and {exc.message}", nearest(name, there) or exc.hint) from exc


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
            f"{run_or_recipe}: {'judged on several targets: ' + found if judged else 'nothing was judged there'}",
            "name one of them" if judged else "run `edgecnn gate` first",
        )
    return recipe, judged[0]


def find_all_judged(run_or_recipe: str, recipe: Recipe, runs: Sequence[TargetRun]) -> list[tuple[TargetRun, Verdict]]:
    """Those targets of a run that were judged as they are now; raises `MeasurementError` for none, and for a verdict on
    other measurements or by another recipe."""
    judged = [(run, report_of(run, recipe).verdict) for run in runs if run.verdict is not None]
    if not judged:
        raise MeasurementError(f"{run_or_recipe}: nothing was judged there", "run `edgecnn gate` first")
    return judged


def find_columns(named: Sequence[str], say: Say = lambda line: None) -> list[Column]:
    """The targets of several runs, each with its verdict where it was judged as it is now."""
    found: list[Column] = []
    for name in named:
        recipe, runs = find_run(name, say=say)
        for run in runs:
            verdict = report_of(run, recipe).verdict.verdict if run.verdict is not None else None
            found.append((name, recipe.name, run, verdict))
    return found


def rerun_arguments(run_or_recipe: str, recipe: Recipe, runs: Sequence[TargetRun]) -> tuple[str, ...]:
    """What `edgecnn run` takes to make a run again, with changed settings: its folder, where that carries the recipe,
    else the recipe and the folder."""
    folder = runs[0].folder.parent
    if not Path(run_or_recipe).is_dir():
        return (run_or_recipe,)
    named = str(folder) if str(folder)[:1] != "-" else f"./{folder}"
    return (named,) if carried_recipe(folder) is not None else (str(recipe.path), "--out", named)


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
