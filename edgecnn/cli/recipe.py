"""`edgecnn recipe list`, `show`, `check`, `copy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON, RECIPE, SET, epilog
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import fact_lines, print_line, print_lines

EXAMPLES = """
edgecnn recipe list
edgecnn recipe show lenet5-digits
edgecnn recipe check lenet5-digits
edgecnn recipe copy lenet5-digits mine.toml
edgecnn recipe copy mobilenet_v2-orin insects.toml --set model.classes=37 --set data.source=imgs
"""


recipe = typer.Typer(no_args_is_help=True, help="List, show, check and copy recipes.", rich_markup_mode=None)


@recipe.command("list", epilog=epilog("edgecnn recipe list"))
def list_(as_json: Annotated[bool, JSON] = False) -> None:
    """List the recipes.

    Those in ./recipes, and those that came with the installation.
    """
    from edgecnn.errors import RecipeError
    from edgecnn.recipe.load import list_recipes, load_recipe

    rows: list[dict[str, object]] = []
    for stem, path in sorted(list_recipes().items()):
        row: dict[str, object] = {"name": stem, "path": str(path)}
        try:
            loaded = load_recipe(str(path))
            row |= {
                "model": loaded.model.name or loaded.model.own,
                "targets": list(loaded.targets) if as_json else " ".join(loaded.targets),
                "title": loaded.title,
            }
        except RecipeError as exc:
            row |= {"model": None, "targets": [], "title": f"not valid: {exc.message.splitlines()[0]}"}
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "model", "targets", "title"])


@recipe.command(epilog=epilog("edgecnn recipe show lenet5-digits"))
def show(
    name: Annotated[str, RECIPE],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Print every setting of a recipe, defaults included."""
    from edgecnn.recipe.load import load_recipe
    from edgecnn.recipe.schema import settings_rows

    loaded = load_recipe(name)
    rows = dict(settings_rows(loaded))
    if as_json:
        print_json({"name": loaded.name, "path": str(loaded.path), "settings": rows})
        return
    print_lines(fact_lines({key: "-" if value is None else str(value) for key, value in rows.items()}))


@recipe.command(epilog=epilog("edgecnn recipe check lenet5-digits"))
def check(name: Annotated[str, RECIPE]) -> None:
    """Check that a recipe can be run.

    Its keys, network, targets, calibration set and data set are looked at; nothing is made.
    """
    from edgecnn.pipeline.preflight import check_recipe
    from edgecnn.recipe.load import load_recipe

    loaded = load_recipe(name)
    check_recipe(loaded)
    print_line(f"{loaded.path}: valid")


@recipe.command(epilog=epilog("edgecnn recipe copy lenet5-digits mine.toml --set train.epochs=30"))
def copy(
    name: Annotated[str, RECIPE],
    to: Annotated[Path | None, typer.Argument(help="New file.  [default: recipes/NAME.toml]")] = None,
    set_: Annotated[list[str] | None, SET] = None,
) -> None:
    """Copy a recipe, to change it; nothing is overwritten."""
    from edgecnn.artifact.write import write_bytes
    from edgecnn.errors import RecipeError
    from edgecnn.recipe.edit import edited_recipe
    from edgecnn.recipe.load import find_recipe

    source = find_recipe(name)
    output = to or Path("recipes") / source.name
    if output.suffix != ".toml":
        raise RecipeError(f"{output}: a recipe's file ends in .toml", f"write {output}.toml")
    if output.exists():
        raise RecipeError(f"{output}: exists already", "give another name: edgecnn recipe copy NAME recipes/NEW.toml")
    write_bytes(output, edited_recipe(name, set_).encode() if set_ else source.read_bytes())
    print_line(output)
