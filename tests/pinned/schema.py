"""The shape of a JSON value: which paths it has and of which types they are, whatever the values.

`a[].b` is key `b` of the objects in list `a`; `a[].b?` is a key that some of them lack; `a.*` stands for all keys of an
object whose keys are values. A null and an empty list tell nothing about what could stand there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, str]
# Objects whose keys depend on the machine: what is installed, which clocks it tells of.
OPEN = {"tools", "clocks", "packages"}


def schema_of(value: Any) -> Schema:
    """path -> types, sorted by path."""
    types: dict[str, set[str]] = {}
    _collect(value, "$", types)
    return {path: "|".join(sorted(kinds)) for path, kinds in sorted(types.items())}


def _collect(value: Any, path: str, types: dict[str, set[str]]) -> None:
    kinds = types.setdefault(path, set())
    if isinstance(value, Mapping):
        kinds.add("object")
        for key, inner in value.items():
            open_ = path.rpartition(".")[2].removesuffix("?") in OPEN
            _collect(inner, f"{path}.*" if open_ else f"{path}.{key}", types)
    elif isinstance(value, list):
        kinds.add("list" if value else "empty list")
        objects = [v for v in value if isinstance(v, Mapping)]
        always = set.intersection(*(set(v) for v in objects)) if objects else set()
        for inner in value:
            if not isinstance(inner, Mapping):
                _collect(inner, f"{path}[]", types)
                continue
            types.setdefault(f"{path}[]", set()).add("object")
            for key, v in inner.items():
                _collect(v, f"{path}[].{key}" if key in always else f"{path}[].{key}?", types)
    else:
        kinds.add({"NoneType": "null"}.get(type(value).__name__, type(value).__name__))


def agreed(old: Schema, new: Schema) -> Schema:
    """`new` with the entries of `old` wherever both allow each other: they differ in no more than what happened to be
    null or empty."""
    if not old:
        return new
    made = dict(new)
    untold = [p for s in (old, new) for p, kinds in s.items() if set(kinds.split("|")) <= {"null", "empty list"}]
    for path, kinds in old.items():
        a, b = (set(k.replace("empty list", "list").split("|")) - {"null"} for k in (kinds, new.get(path, "null")))
        if (path in new and (a == b or not a or not b)) or (path not in new and _below(path, untold)):
            made[path] = kinds
    for path in new.keys() - old.keys():
        if _below(path, untold):
            del made[path]
    return dict(sorted(made.items()))


def _below(path: str, untold: list[str]) -> bool:
    return any(path.startswith((f"{p}[]", f"{p}.")) for p in untold)
