"""A recipe as the text of a TOML file that says every setting, defaults and overrides included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgecnn.recipe.schema import Recipe, settings_rows


def recipe_text(recipe: Recipe) -> str:
    """TOML whose reading gives the same settings; one dotted key a line, what is unset left out."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in settings_rows(recipe) if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # the one that JSON does not escape
