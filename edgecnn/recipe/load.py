"""Finding and reading recipes; every problem of a file at once."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from edgecnn.errors import RecipeError, nearest
from edgecnn.recipe.rules import _contradictions
from edgecnn.recipe.schema import Recipe, _shown


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
    """The file of a recipe given by its stem or by a path; raises `RecipeError` with the nearest names."""
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


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with `section.key=value` overrides; raises `RecipeError` that lists every problem."""
    path = find_recipe(name_or_path)
    content = _parse(path, _read(path))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise RecipeError(f"--set {override}: expected key=value", "for example --set train.epochs=3")
        _put(content, key.strip(), _override_value(value.strip()))
    return recipe_from_mapping(content, path)


def recipe_from_mapping(content: Mapping[str, Any], path: Path) -> Recipe:
    """A recipe from parsed TOML; raises `RecipeError` that lists every problem, each with its key."""
    problems: list[str] = []
    recipe: Recipe = _build(Recipe, content, "", problems)
    problems += _contradictions(recipe)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        listing = "".join(f"\n  - {p}" for p in problems) if len(problems) > 1 else ""
        raise RecipeError(
            f"{path}: {problems[0]}{more}{listing}", "`edgecnn recipe show NAME` prints a recipe with every key"
        )
    return dataclasses.replace(recipe, path=path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise RecipeError(f"{path}: cannot be read: {exc}", "a recipe is a UTF-8 TOML file") from exc


def _parse(path: Path, text: str) -> dict[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        return dict(toml.loads(text))
    except (ValueError, RecursionError) as exc:
        raise RecipeError(f"{path}: not valid TOML: {exc}", "a key may stand only once, strings need quotes") from exc


def _override_value(text: str) -> Any:
    try:
        return _parse(Path("--set"), f"value = {text}")["value"]
    except RecipeError:
        return text


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: {section} is not a section", "`edgecnn recipe show NAME` prints the keys")
        content = inner
    content[last] = value


def _build(kind: Any, content: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in _shown(kind)}
    for key in content.keys() - known.keys():
        problems.append(f"unknown key {prefix}{key}; {nearest(key, known) or 'allowed: ' + ', '.join(known)}")
    values = {}
    for name, f in known.items():
        if name not in content:
            continue
        where, value, hint = f"{prefix}{name}", content[name], hints[name]
        if dataclasses.is_dataclass(hint):
            if isinstance(value, dict):
                values[name] = _build(hint, value, f"{where}.", problems)
            else:
                problems.append(f"{where} must be a section, [{where}]")
            continue
        if problem := _type_problem(hint, value) or _range_problem(f, value):
            problems.append(f"{where} = {value!r}: {problem}")
        else:
            values[name] = _converted(hint, value)
    return kind(**values)


def _type_problem(hint: Any, value: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _type_problem(next(a for a in arguments if a is not type(None)), value)
    if origin is Literal:
        if value in arguments:
            return ""
        close = nearest(str(value), [str(a) for a in arguments])
        return f"must be one of {', '.join(map(repr, arguments))}" + (f"; {close}" if close else "")
    if origin is tuple:
        if not isinstance(value, list) or not value:
            return "must be a list with at least one entry"
        return next((p for v in value if (p := _type_problem(arguments[0], v))), "")
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    right = isinstance(value, (int, float) if hint is float else hint)
    if not right or (isinstance(value, bool) and hint is not bool):
        return f"must be {names[hint]}"
    return ""


def _range_problem(f: dataclasses.Field[Any], value: Any) -> str:
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if low is not None and value < low:
        return f"must be at least {low}"
    return f"must be at most {high}" if high is not None and value > high else ""


def _converted(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    arguments = typing.get_args(hint)
    return float(value) if hint is float or float in arguments else value
