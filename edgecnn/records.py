"""The one way between JSON and dataclasses: strict, all problems at once.

A record is a frozen dataclass with

    __pydantic_config__ = STRICT                  unknown keys and other types are refused (a whole number may stand
                                                  for a float)
    RENAMED: ClassVar[dict[str, str]] = {"old": "new"}  where earlier versions wrote a key under another name
    RENAMED_VALUES: ClassVar[dict[str, dict[str, str]]] = {"key": {"old": "new"}}  or another word as its value
    SPARSE: ClassVar[bool] = True  what is None or empty is not written
    DERIVED: ClassVar[tuple[str, ...]] = ("verdict",)  properties that are written too, and must fit on reading
    part: Other | None = field(metadata=FLAT)     its keys stand beside those of the record, not below one of their own

Its fields are the keys of the JSON. pydantic's `TypeAdapter` does the work and is imported when a file is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import re
import sys
import threading
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from edgecnn.errors import ArtifactError, EdgecnnError, nearest
from edgecnn.limits import require_depth

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
FLAT: Mapping[str, Any] = {"flat": True}
SHOWN_PROBLEMS = 8
_DISABLE_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"  # docs.pydantic.dev, "Plugins"
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")

Record = TypeVar("Record")
Toml: TypeAlias = "str | int | float | bool | datetime.date | datetime.time | list[Toml] | dict[str, Toml] | None"


def record_from_json(kind: type[Record], text: str | bytes, where: str, hint: str) -> Record:
    """The record of `kind` that a JSON text holds, but for a `provenance` that its file carries beside the content.

    Raises `ArtifactError` that names `where` and every key that is missing, unknown or of another type.
    """
    return record_from_mapping(kind, mapping_from_json(text, where, hint), where, hint)


def record_from_mapping(
    kind: type[Record], content: Mapping[str, Any], where: str, hint: str, error: type[EdgecnnError] = ArtifactError
) -> Record:
    """The record of `kind` in parsed JSON or TOML; raises `error` that names `where` and every problem."""
    if "provenance" in content and not _has_field(kind, "provenance"):
        content = {key: value for key, value in content.items() if key != "provenance"}
    made, problems = record_and_problems(kind, content)
    if made is None or problems:
        raise error(f"{where}: {_listed(problems)}", hint)
    if contradictions := [*_contradictions(made, content)]:
        raise error(f"{where}: {_listed(contradictions)}", hint)
    return made


def record_and_problems(kind: type[Record], content: Mapping[str, Any]) -> tuple[Record | None, list[str]]:
    """The record of `kind` in parsed JSON or TOML, without what is wrong in it (None where that leaves no record), and
    every problem, each with its dotted key."""
    from pydantic import ValidationError

    hidden = [f.name for f in dataclasses.fields(kind) if f.metadata.get("hidden") and f.name in content]  # type: ignore[arg-type]
    problems = [_unknown(kind, (name,)) for name in hidden]
    whole = _grouped(kind, {key: value for key, value in content.items() if key not in hidden})
    made: Record
    try:
        made = _adapter(kind).validate_json(json.dumps(whole, default=_foreign))
        return made, problems
    except ValidationError as exc:
        found = _of_the_member_that_is_meant(whole, exc.errors(include_url=False))
    except (RecursionError, ValueError) as exc:
        return None, [*problems, f"it cannot be read: {_lower(str(exc))}"]
    problems += [_worded(kind, problem) for problem in found]
    try:
        made = _adapter(kind).validate_json(
            json.dumps(_without(whole, [problem["loc"] for problem in found]), default=_foreign)
        )
    except ValidationError:
        return None, problems
    return made, problems


def mapping_from_json(text: str | bytes, where: str, hint: str) -> dict[str, Any]:
    """A JSON object; raises `ArtifactError` that names `where` for anything else."""
    try:
        content = parse_json(text)
    except ValueError as exc:
        raise ArtifactError(f"{where}: not valid JSON ({exc})", hint) from exc
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: a JSON object was expected", hint)
    return content


def parse_json(text: str | bytes, *, unique: bool = True) -> Any:
    """JSON in UTF-8 in which no key stands twice in an object (but where not `unique`, the last counts), and which is
    not nested too deep; raises `ValueError` for anything else."""
    text = text if isinstance(text, str) else text.decode()
    try:
        found = json.loads(text, object_pairs_hook=_once if unique else None)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc
    require_depth(found)
    if _SURROGATE.search(text):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as exc:
            raise ValueError("half of a surrogate pair, which is no character") from exc
    return found


def parse_toml(text: str) -> dict[str, Toml]:
    """The content of a TOML text; raises `ValueError` for anything else."""
    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        found = dict(toml.loads(text))
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc
    require_depth(found)
    return found


def name_tables(tables: Toml) -> Toml:
    """TOML tables by name, each with its key as its `name`."""
    if not isinstance(tables, dict):
        return tables
    return {name: {"name": name, **table} if isinstance(table, dict) else table for name, table in tables.items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice")
        found[key] = value
    return found


def to_plain(record: Any) -> Any:
    """A record (or a list of them) as JSON's own types: its fields are the keys."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        plain = {name: to_plain(getattr(record, name)) for name in getattr(record, "DERIVED", ())}
        for f in dataclasses.fields(record):
            value = to_plain(getattr(record, f.name))
            if getattr(record, "SPARSE", False) and value in (None, "", [], {}):
                continue
            if f.metadata.get("flat"):
                plain |= {key: inner for key, inner in (value or {}).items() if key not in plain}
            else:
                plain[f.name] = value
        return plain
    if isinstance(record, Mapping):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_plain(value) for value in record]
    return str(record) if isinstance(record, Path) else record


_ADAPTERS: dict[Any, Any] = {}
_MAKING = threading.RLock()  # the environment is of all threads


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        with _MAKING, _no_plugins():
            _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


@contextlib.contextmanager
def _no_plugins() -> Iterator[None]:
    """Within the block pydantic does not look for plugins in the metadata of every installed package."""
    before = os.environ.get(_DISABLE_PLUGINS)
    os.environ[_DISABLE_PLUGINS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_DISABLE_PLUGINS]
        else:
            os.environ[_DISABLE_PLUGINS] = before


def _has_field(kind: Any, name: str) -> bool:
    return any(f.name == name for f in dataclasses.fields(kind))


def _grouped(kind: Any, content: Any) -> Any:
    """`content` with the keys of earlier versions under their present names (one that stands beside its successor
    stays, and is refused as unknown), with the keys of flat parts below the part, and without what is derived."""
    if _is_plain(kind):
        return content
    renamed: Mapping[str, str] = getattr(kind, "RENAMED", {})
    found = {
        renamed[key] if key in renamed and renamed[key] not in content else key: value
        for key, value in content.items()
        if key not in getattr(kind, "DERIVED", ())
    }
    for key, words in getattr(kind, "RENAMED_VALUES", {}).items():
        if isinstance(found.get(key), str):
            found[key] = words.get(found[key], found[key])
    own = {f.name for f in dataclasses.fields(kind) if not f.metadata.get("flat")}
    hints = typing.get_type_hints(kind)
    taken: set[str] = set()
    for f in dataclasses.fields(kind):
        if f.metadata.get("flat"):
            part = next(h for h in (typing.get_args(hints[f.name]) or (hints[f.name],)) if dataclasses.is_dataclass(h))
            keys = _keys_of(part)
            taken |= keys - own
            inside = {key: found[key] for key in keys & found.keys()}
            if f.name in content and f.name not in keys:  # no key of the JSON: refused below the part as unknown
                inside[f.name] = content[f.name]
            found[f.name] = _grouped(part, inside) if inside.keys() - own else None
    for name, hint in hints.items():
        kinds, value = [h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)], found.get(name)
        if kinds and isinstance(value, dict) and name in own:
            by_name = typing.get_origin(hint) in (dict, Mapping)
            found[name] = _each_grouped(kinds[0], value) if by_name else _grouped(kinds[0], value)
        elif kinds and isinstance(value, list):
            found[name] = [_grouped(kinds[0], row) if isinstance(row, dict) else row for row in value]
    return {key: value for key, value in found.items() if key not in taken or key in own}


@functools.cache
def _is_plain(kind: Any) -> bool:
    """Whether JSON is as a kind of record says: nothing is renamed, derived or flat, and no field is a record."""
    if not dataclasses.is_dataclass(kind):
        return True
    inner = [h for hint in typing.get_type_hints(kind).values() for h in (hint, *typing.get_args(hint))]
    special = any(getattr(kind, name, ()) for name in ("RENAMED", "RENAMED_VALUES", "DERIVED"))
    return not special and not any(dataclasses.is_dataclass(h) for h in inner)


def _are_plain(rows: Iterable[Any]) -> bool:
    kinds: set[Any] = {type(row) for row in rows}
    return all(_is_plain(kind) for kind in kinds)


def _each_grouped(kind: Any, rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _grouped(kind, row) if isinstance(row, dict) else row for name, row in rows.items()}


def _keys_of(kind: Any) -> set[str]:
    """The keys of a record in JSON, those of its flat parts among them, in present and earlier names."""
    keys, hints = set(getattr(kind, "RENAMED", {})), typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        if f.metadata.get("flat"):
            kinds = typing.get_args(hints[f.name]) or (hints[f.name],)
            keys |= _keys_of(next(h for h in kinds if dataclasses.is_dataclass(h)))
        else:
            keys.add(f.name)
    return keys


def _contradictions(made: Any, content: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What is derived and stands in `content` otherwise, in the record and in every record below it."""
    for name in getattr(made, "DERIVED", ()):
        if name in content and content[name] != (derived := to_plain(getattr(made, name))):
            yield f"{place}{name} is {content[name]!r}, its other values say {derived!r}"
    for f in dataclasses.fields(made):
        value, inner = getattr(made, f.name), content.get(f.name)
        if f.metadata.get("flat") and value is not None:
            yield from _contradictions(value, content, place)
        elif dataclasses.is_dataclass(value) and isinstance(inner, dict):
            yield from _contradictions(value, inner, f"{place}{f.name}.")
        elif isinstance(value, tuple) and isinstance(inner, list) and not _are_plain(value):
            for k, (row, written) in enumerate(zip(value, inner, strict=True)):
                if dataclasses.is_dataclass(row) and isinstance(written, dict):
                    yield from _contradictions(row, written, f"{place}{f.name}.{k}.")


def _foreign(value: Any) -> Any:
    """What JSON has no type for: a path is a string, and a date of TOML is nothing that a field takes."""
    return str(value) if isinstance(value, Path) else {"date": str(value)}


def _without(content: Mapping[str, Any], places: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    """A copy of `content` without the values at `places`; of a list that holds one, the whole list goes."""
    copy: dict[str, Any] = {key: _without(v, ()) if isinstance(v, dict) else v for key, v in content.items()}
    for *path, last in places:
        inner, key = copy, str(last)
        for part in map(str, path):
            if not isinstance(inner.get(part), dict):
                key = part
                break
            inner = inner[part]
        inner.pop(key, None)
    return copy


def _of_the_member_that_is_meant(content: Mapping[str, Any], problems: list[Any]) -> list[Any]:
    """pydantic tells what is wrong by every member of a union, with the member's name in the place. Kept are those of
    the mapping where one stands there, else of the first member, at the place that the content has."""
    kept = []
    for problem in problems:
        value: Any = content
        for k, part in enumerate(problem["loc"]):
            if part in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
                value = value[part]
                continue
            if isinstance(part, str) and problem["type"] not in ("missing", "missing_argument"):
                if isinstance(value, dict) != part.startswith("dict["):
                    break
                problem = {**problem, "loc": (*problem["loc"][:k], *problem["loc"][k + 1 :])}
        else:
            kept.append(problem)
    return kept


_WORDED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a section with keys of its own",
    "dataclass_type": "must be a section with keys of its own",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must be a list with at least one entry",
    "literal_error": "must be one of {expected}",
}


def _worded(kind: Any, problem: Any) -> str:
    """One of pydantic's errors as a line that begins with the dotted key."""
    place, what = problem["loc"], problem["type"]
    where = ".".join(map(str, place)) or "it"
    absent = what == "dataclass_type" and problem["input"] is None  # a flat part of which no key is there
    if what in ("missing", "missing_argument") or absent:
        return f"{where} is missing"
    if what in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown(kind, place)
    shown, allowed = repr(problem["input"]), problem.get("ctx", {})
    said = _WORDED[what].format(**allowed) if what in _WORDED else _lower(problem["msg"])
    if what == "literal_error":
        close = nearest(str(problem["input"]), re.findall(r"'([^']*)'", allowed["expected"]))
        said += f"; {close}" if close else ""
    return f"{where} = {shown[:40] + '...' if len(shown) > 40 else shown}: {said}"


def _unknown(kind: Any, place: tuple[int | str, ...]) -> str:
    """That the last part of `place` is no key, with those that are."""
    for part in place[:-1]:
        hint = typing.get_type_hints(kind).get(str(part)) if dataclasses.is_dataclass(kind) else kind
        kind = next((h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)), None)
    text = f"{'.'.join(map(str, place))} is not known"
    if not dataclasses.is_dataclass(kind):
        return text
    known = [f.name for f in dataclasses.fields(kind) if not f.metadata.get("hidden") and not f.metadata.get("flat")]
    return f"{text}; {nearest(str(place[-1]), known) or 'allowed: ' + ', '.join(known)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _listed(problems: list[str]) -> str:
    more = f" (and {len(problems) - SHOWN_PROBLEMS} more)" if len(problems) > SHOWN_PROBLEMS else ""
    return "; ".join(problems[:SHOWN_PROBLEMS]) + more
