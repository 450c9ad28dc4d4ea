"""The one way between JSON and dataclasses: strict, all problems at once.

A record is a frozen dataclass with

    __pydantic_config__ = STRICT                  unknown keys and other types are refused (a whole number may stand
                                                  for a float)
    RENAMED: ClassVar = {"old": "new"}            where earlier versions wrote a key under another name
    SPARSE: ClassVar = True                       what is None or empty is not written
    DERIVED: ClassVar = ("verdict",)              properties that are written too, and must fit on reading
    part: Other | None = field(metadata=FLAT)     its keys stand beside those of the record, not below one of their own

Its fields are the keys of the JSON. pydantic's `TypeAdapter` does the work and is imported when a file is read.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgecnn.errors import ArtifactError, EdgecnnError

STRICT: dict[str, Any] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
FLAT: Mapping[str, Any] = {"flat": True}
SHOWN_PROBLEMS = 8

Record = TypeVar("Record")


def record_from_json(kind: type[Record], text: str | bytes, where: str, hint: str) -> Record:
    """The record of `kind` that a JSON text holds, but for a `provenance` that its file carries beside the content.

    Raises `ArtifactError` that names `where` and every key that is missing, unknown or of another type.
    """
    return record_from_mapping(kind, mapping_from_json(text, where, hint), where, hint)


def record_from_mapping(
    kind: type[Record], content: Mapping[str, Any], where: str, hint: str, error: type[EdgecnnError] = ArtifactError
) -> Record:
    """The record of `kind` in parsed JSON or TOML; raises `error` that names `where` and every problem."""
    from pydantic import ValidationError

    if "provenance" in content and not _has_field(kind, "provenance"):
        content = {key: value for key, value in content.items() if key != "provenance"}
    try:
        made: Record = _adapter(kind).validate_json(json.dumps(_grouped(kind, content), default=str))
    except ValidationError as exc:
        raise error(f"{where}: {_listed([*_problems(exc)])}", hint) from exc
    for name in getattr(kind, "DERIVED", ()):
        if name in content and content[name] != (derived := to_plain(getattr(made, name))):
            raise error(f"{where}: {name} is {content[name]!r}, its other values say {derived!r}", hint)
    return made


def mapping_from_json(text: str | bytes, where: str, hint: str) -> dict[str, Any]:
    """A JSON object; raises `ArtifactError` that names `where` for anything else."""
    try:
        content = parse_json(text)
    except ValueError as exc:
        raise ArtifactError(f"{where}: not valid JSON ({exc})", hint) from exc
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: a JSON object was expected", hint)
    return content


def parse_json(text: str | bytes) -> Any:
    """JSON in which no key stands twice in an object; raises `ValueError` for anything else."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc


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


def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _has_field(kind: Any, name: str) -> bool:
    return any(f.name == name for f in dataclasses.fields(kind))


def _grouped(kind: Any, content: Any) -> Any:
    """`content` with the keys of earlier versions under their present names (one that stands beside its successor
    stays, and is refused as unknown), with the keys of flat parts below the part, and without what is derived."""
    if not dataclasses.is_dataclass(kind):
        return content
    renamed: Mapping[str, str] = getattr(kind, "RENAMED", {})
    found = {
        renamed[key] if key in renamed and renamed[key] not in content else key: value
        for key, value in content.items()
        if key not in getattr(kind, "DERIVED", ())
    }
    own = {f.name for f in dataclasses.fields(kind) if not f.metadata.get("flat")}
    hints = typing.get_type_hints(kind)
    taken: set[str] = set()
    for f in dataclasses.fields(kind):
        if f.metadata.get("flat"):
            part = next(h for h in (typing.get_args(hints[f.name]) or (hints[f.name],)) if dataclasses.is_dataclass(h))
            keys = {inner.name for inner in dataclasses.fields(part)} | set(getattr(part, "RENAMED", {}))
            taken |= keys - own
            inside = {key: found[key] for key in keys & found.keys()}
            found[f.name] = _grouped(part, inside) if inside.keys() - own else None
    for name, hint in hints.items():
        kinds, value = [h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)], found.get(name)
        if kinds and isinstance(value, dict) and name in own:
            found[name] = _grouped(kinds[0], value)
        elif kinds and isinstance(value, list):
            found[name] = [_grouped(kinds[0], row) if isinstance(row, dict) else row for row in value]
    return {key: value for key, value in found.items() if key not in taken or key in own}


def _problems(exc: Any) -> Iterator[str]:
    for problem in exc.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"]) or "it"
        kind = problem["type"]
        if kind in ("missing", "missing_argument"):
            yield f"{where} is missing"
        elif kind in ("extra_forbidden", "unexpected_keyword_argument"):
            yield f"{where} is not known"
        else:
            shown = repr(problem["input"])
            yield f"{where} = {shown[:40] + '...' if len(shown) > 40 else shown}: {_lower(problem['msg'])}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _listed(problems: list[str]) -> str:
    more = f" (and {len(problems) - SHOWN_PROBLEMS} more)" if len(problems) > SHOWN_PROBLEMS else ""
    return "; ".join(problems[:SHOWN_PROBLEMS]) + more
