"""A recipe's text with other settings; what is not set stays as it was written, comments too."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from edgecnn.errors import RecipeError
from edgecnn.recipe.load import find_recipe, load_recipe, parse_override, recipe_from_mapping
from edgecnn.records import Toml, parse_toml

_SECTION = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?$")


def edited_recipe(name_or_path: str, overrides: Sequence[str]) -> str:
    """The text of a recipe with each `section.key=value` of `overrides` in it. Raises `RecipeError` for settings that
    are not valid, and for a file whose layout hides where one belongs."""
    wanted = load_recipe(name_or_path, overrides)
    path = find_recipe(name_or_path)
    text = path.read_text(encoding="utf-8")
    for override in overrides:
        key, value = parse_override(override)
        if not isinstance(value, dict):
            text = _with_setting(text, key, _toml(value))
    try:
        made = recipe_from_mapping(parse_toml(text), path)
    except (ValueError, RecipeError):
        made = None
    if made != wanted:
        raise RecipeError(
            f"{path}: {', '.join(overrides)}: not a change of single lines of this file",
            "set the keys of a section one by one, or copy the recipe without --set and edit the copy",
        )
    return text


def _with_setting(text: str, key: str, value: str) -> str:
    """`text` with the line `key = value`: in place of the one that is there, else at the end of its section, else in a
    section of its own at the end."""
    section, _, last = key.rpartition(".")
    lines = text.splitlines()
    here, end = "", 0 if not section else None
    for number, line in enumerate(lines):
        if head := _SECTION.match(line):
            here = head[1].strip()
        elif here == section and (found := re.match(rf"\s*{re.escape(last)}\s*=\s*", line)):
            lines[number] = f"{found[0]}{value}{_comment(line[found.end() :])}"
            return "\n".join(lines) + "\n"
        if here == section and line.strip() and (head or not line.lstrip().startswith("#")):
            end = number + 1
    added = [f"{last} = {value}"] if end is not None else ["", f"[{section}]", f"{last} = {value}"]
    at = len(lines) if end is None else end
    return "\n".join([*lines[:at], *added, *lines[at:]]) + "\n"


def _comment(rest: str) -> str:
    """The comment behind a value, with the spaces before it; "" without one."""
    found = re.match(r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|[^"'#])*?(\s*#.*)$""", rest)
    return found[1] if found else ""


def _toml(value: Toml) -> str:
    """A value as it stands in a TOML file."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (str, bool)) else str(value)
