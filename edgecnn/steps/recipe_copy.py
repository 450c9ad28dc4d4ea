"""The recipe that a run folder carries: what the run was made with, overrides included, under its own name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgecnn.artifact.pair import remove_pair
from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sha256_of, sidecar_path, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.bundle.manifest import MANIFEST
from edgecnn.errors import ArtifactError, RecipeError
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe, settings_rows
from edgecnn.recipe.text import recipe_text

KIND = "recipe"


def keep_recipe(recipe: Recipe, folder: Path, *, alone: bool = False) -> Path:
    """Write the recipe into its run folder, in place of one that was carried before; nothing where it stands there
    already. The file that it came from is its parent, but for a copy that is to stand `alone`, on another machine.
    """
    kept, here = _copies(folder), folder / f"{recipe.name}.toml"
    content, before = recipe_text(recipe).encode(), read_sidecar(here).parents if here in kept else {}
    if alone or not recipe.path.is_file():
        parents: dict[str, str] = {}
    else:
        parents = before if recipe.path.resolve() == here.resolve() else parents_of(here, recipe.path)
    if kept != [here] or here.read_bytes() != content or parents.keys() != before.keys():
        sidecar = Sidecar(kind=KIND, made_by="edgecnn run", recipe=recipe.name, parents=parents)
        write_artifact(here, lambda temporary: temporary.write_bytes(content), sidecar)
        for other in kept:
            if other != here:
                remove_pair(other)
    return here


def carried_recipe(
    folder: Path, overrides: Sequence[str] = (), *, data: str = "", calibration_data: str = ""
) -> Recipe | None:
    """The recipe that a run folder carries, changed as `load_recipe` changes one; None where it carries none.

    It stands where the file that it came from does, if that is here: baselines lie beside that; one that a bundle
    brought stands alone, whatever its sidecar says. Raises `ArtifactError` for one that was changed, or for several.
    """
    copies = _copies(folder)
    if not copies:
        return None
    if len(copies) > 1:
        raise ArtifactError(
            f"{folder}: carries several recipes: {', '.join(c.name for c in copies)}",
            f"remove those that the run was not made with, or name one: --recipe {copies[0]}",
        )
    path, sidecar = copies[0], verified_sidecar(copies[0])
    found = load_recipe(str(path), overrides, data=data, calibration_data=calibration_data)
    parents = () if (folder / MANIFEST).exists() else sidecar.parents
    return replace(found, path=next((p for name in parents if (p := folder / name).is_file()), path))


def differs_from_its_file(folder: Path, recipe: Recipe) -> bool:
    """Whether the file that a carried recipe came from says something else by now, or nothing that can be read."""
    copies = _copies(folder)
    parents = read_sidecar(copies[0]).parents if len(copies) == 1 else {}
    changed = [
        folder / n for n, digest in parents.items() if (folder / n).is_file() and sha256_of(folder / n) != digest
    ]
    try:
        return bool(changed) and settings_rows(load_recipe(str(changed[0]))) != settings_rows(recipe)
    except RecipeError:
        return True


def _copies(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.glob("*.toml")) if sidecar_path(path).is_file()]
    return [path for path in found if read_sidecar(path).kind == KIND]
