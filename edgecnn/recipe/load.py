"""Finding and reading recipes; every problem of a file at once."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.errors import RecipeError, nearest
from edgecnn.limits import read_file
from edgecnn.recipe.location import locate
from edgecnn.recipe.rules import find_contradictions
from edgecnn.recipe.schema import RENAMED, Precision, Recipe
from edgecnn.records import Toml, parse_toml, record_and_problems
from edgecnn.targets import targets


def recipe_folders() -> list[Path]:
    """Where recipes are looked for: `./recipes`, then the copies packaged with the wheel or the checkout's own."""
    return [f for f in (Path("recipes"), *packaged_folders("recipes")) if f.is_dir()]


def packaged_folders(name: str) -> list[Path]:
    """The read-only copies of a top-level folder (`recipes`, `calibration`) that came with the installation."""
    here = Path(__file__).resolve().parent.parent
    return [f for f in (here / "_packaged" / name, here.parent / name) if f.is_dir()]


def list_recipes() -> dict[str, Path]:
    """Every recipe by name; one in `./recipes` hides a packaged one of the same name."""
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe given by its stem or by a path; raises `RecipeError` with the nearest names, and
    `ArtifactError` where a features graph is given, of which there are no runs."""
    if Path(name_or_path).is_file() and sidecar_path(Path(name_or_path)).is_file():
        read_sidecar(Path(name_or_path)).require_classes(name_or_path)
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file", "`edgecnn recipe list` shows those that are there")
        return path
    known = list_recipes()
    if name_or_path not in known:
        raise RecipeError(
            f"no recipe {name_or_path!r} in {', '.join(str(f) for f in recipe_folders()) or './recipes'}",
            nearest(name_or_path, known) or "`edgecnn recipe list` shows those that are there",
        )
    return known[name_or_path]


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), *, data: str = "", calibration_data: str = ""
) -> Recipe:
    """Read a recipe by its name or path, with `section.key=value` in place of what it says.

        import edgecnn as ec
        recipe = ec.load_recipe("lenet5-digits", ["train.epochs=1"])
        ec.run(recipe, "runs/quick")

    `data` and `calibration_data` are where its images and those to calibrate with lie here: a folder of the data set
    that it names, or any other source of images. Raises `RecipeError` that lists every problem.
    """
    path = find_recipe(name_or_path)
    content = _parse(path, _read(path))
    problems = _rename_keys(content)
    overrides = [*overrides, *_locations(content, overrides, data, calibration_data)]
    for override in overrides:
        key, value = parse_override(override)
        _put(content, RENAMED.get(key, key), value)
    try:
        recipe = _checked_recipe(content, path, problems + _rename_keys(content))
    except RecipeError as exc:
        if overrides:
            load_recipe(str(path))  # a mistake of the file's own is told as one
            raise RecipeError(f"--set {', '.join(overrides)}: {exc.message}", exc.hint) from exc
        raise
    return dataclasses.replace(recipe, overrides=tuple(overrides))


def parse_override(override: str) -> tuple[str, Toml]:
    """(dotted key, value) of `key=value`; raises `RecipeError` for anything else."""
    key, separator, value = override.partition("=")
    if not separator or not all(part.strip() for part in key.split(".")):
        raise RecipeError(f"--set {override}: expected key=value", "for example --set train.epochs=3")
    return key.strip(), _override_value(value.strip())


def _locations(content: Mapping[str, Toml], overrides: Sequence[str], data: str, calibration_data: str) -> list[str]:
    """`data` and `calibration_data` as overrides; raises `RecipeError` where another one sets the same."""
    section = content.get("data")
    source = str(section.get("source", "")) if isinstance(section, dict) else ""
    made = []
    for option, key, value in (("data", "source", data), ("calibration-data", "calibration_source", calibration_data)):
        if not value:
            continue
        if twice := next((o for o in overrides if parse_override(o)[0] in ("data", f"data.{key}")), None):
            raise RecipeError(f"--{option} {value} and --set {twice} are two sources of the same images", "give one")
        made.append(f"data.{key}={json.dumps(locate(source, value), ensure_ascii=False)}")
    return made


def recipe_from_mapping(content: Mapping[str, Toml], path: Path) -> Recipe:
    """A recipe from parsed TOML; raises `RecipeError` that lists every problem, each with its key."""
    own = copy.deepcopy(dict(content))
    return _checked_recipe(own, path, _rename_keys(own))


def _checked_recipe(content: Mapping[str, Toml], path: Path, problems: list[str]) -> Recipe:
    recipe, found = record_and_problems(Recipe, content)
    if recipe is not None and "precisions" not in content:
        recipe = dataclasses.replace(recipe, precisions=_default_precisions(recipe.targets))
    problems = problems + found + ([] if recipe is None else find_contradictions(recipe))
    if recipe is None or problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        listing = "".join(f"\n  - {p}" for p in problems) if len(problems) > 1 else ""
        raise RecipeError(
            f"{path}: {problems[0]}{more}{listing}", "`edgecnn recipe show NAME` prints a recipe with every key"
        )
    return dataclasses.replace(recipe, path=path)


def _default_precisions(names: Sequence[str]) -> tuple[Precision, ...]:
    """FP16 where every target is compiled on the GPU that loads it, which has no INT8 convolutions (TensorRT-RTX)."""
    known = targets()
    return ("fp16",) if all(n in known and known[n].built_anywhere for n in names) else Recipe.precisions


def _rename_keys(content: dict[str, Toml]) -> list[str]:
    """Bring keys of earlier versions, in place, to their present names; returns what stands there under both."""
    problems = []
    for old, new in RENAMED.items():
        *sections, last = old.split(".")
        inner: Toml = content
        for section in sections:
            inner = inner.get(section) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            continue
        value, present = inner.pop(last), new.rpartition(".")[2]
        if present in inner:
            problems.append(f"{old} and {new} are one setting, by its earlier and its present name: keep {new}")
        else:
            inner[present] = value
    return problems


def _read(path: Path) -> str:
    try:
        return read_file(path).decode().replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise RecipeError(f"{path}: cannot be read: {exc}", "a recipe is a UTF-8 TOML file") from exc


def _parse(path: Path, text: str) -> dict[str, Toml]:
    try:
        return parse_toml(text)
    except ValueError as exc:
        raise RecipeError(f"{path}: not valid TOML: {exc}", "a key may stand only once, strings need quotes") from exc


def _override_value(text: str) -> Toml:
    try:
        return _parse(Path("--set"), f"value = {text}")["value"]
    except RecipeError:
        return text


def _put(content: dict[str, Toml], key: str, value: Toml) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: {section} is not a section", "`edgecnn recipe show NAME` prints the keys")
        content = inner
    content[last] = value
