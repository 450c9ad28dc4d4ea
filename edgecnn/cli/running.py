"""Commands on recipes: run, recipe list / show / check / copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgecnn.cli.printing import print_json, print_rows, say

RECIPE = typer.Argument(help="A recipe's name, or a path to its TOML.")


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(run)
    recipes = typer.Typer(no_args_is_help=True, help="Look at recipes, check and copy them.", rich_markup_mode=None)
    recipes.command("list")(list_recipes)
    recipes.command()(show)
    recipes.command()(check)
    recipes.command()(copy)
    app.add_typer(recipes, name="recipe")


def run(
    recipe: Annotated[str, RECIPE],
    until: Annotated[str, typer.Option(help="Stop after this step.")] = "report",
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, for example train.epochs=3.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Bring a recipe up to date, from training to the verdict; redo only what is stale."""
    from edgecnn.pipeline.run import run_folder, run_recipe
    from edgecnn.recipe.load import load_recipe

    loaded = load_recipe(recipe, set_ or ())
    outcome = run_recipe(loaded, run_folder(loaded, out), say, until=until, threads=threads)
    for line in outcome.elsewhere:
        say(line)
    if as_json:
        print_json({"folder": str(outcome.folder), "done": outcome.done, "reports": outcome.reports})
        return outcome.exit_code
    from edgecnn.report.terminal import terminal_report

    for report in outcome.reports:
        print(terminal_report(report))
        say(f"the whole report: {outcome.folder / report['target'] / 'report.md'}")
    return outcome.exit_code


def list_recipes(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List the recipes in ./recipes and those that came with the installation."""
    from edgecnn.errors import RecipeError
    from edgecnn.recipe.load import list_recipes, load_recipe

    rows: list[dict[str, Any]] = []
    for name, path in sorted(list_recipes().items()):
        row: dict[str, Any] = {"name": name, "path": str(path)}
        try:
            recipe = load_recipe(str(path))
            row |= {"model": recipe.model.name, "targets": list(recipe.targets), "title": recipe.title}
        except RecipeError as exc:
            row |= {"model": None, "targets": [], "title": f"not valid: {exc.message.splitlines()[0]}"}
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "model", "targets", "title"])


def show(
    recipe: Annotated[str, RECIPE],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Print every setting of a recipe, defaults included."""
    from edgecnn.recipe.load import load_recipe
    from edgecnn.recipe.schema import settings_rows

    loaded = load_recipe(recipe)
    rows = dict(settings_rows(loaded))
    if as_json:
        print_json({"name": loaded.name, "path": str(loaded.path), "settings": rows})
        return
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key.ljust(width)}  {'-' if value is None else value}")


def check(recipe: Annotated[str, RECIPE]) -> None:
    """Check a recipe: its keys, its network, its targets, its calibration set, its data set."""
    from edgecnn.pipeline.preflight import check_recipe
    from edgecnn.recipe.load import load_recipe

    loaded = load_recipe(recipe)
    check_recipe(loaded)
    print(f"{loaded.path}: valid")


def copy(
    recipe: Annotated[str, RECIPE],
    to: Annotated[Path | None, typer.Argument(help="New file.  [default: recipes/NAME.toml]")] = None,
) -> None:
    """Copy a recipe, to change it; nothing is overwritten."""
    from edgecnn.artifact.write import write_bytes
    from edgecnn.errors import RecipeError
    from edgecnn.recipe.load import find_recipe

    source = find_recipe(recipe)
    output = to or Path("recipes") / source.name
    if output.exists():
        raise RecipeError(f"{output}: exists already", "give another name: edgecnn recipe copy NAME recipes/NEW.toml")
    write_bytes(output, source.read_bytes())
    print(output)
