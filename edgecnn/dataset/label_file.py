"""Files with the names of a model's classes, in the order of its outputs."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecnn.errors import DataError

JSON_LIST = 'write the names as a JSON list, ["first", "second", ...]'
_NUMBERED = re.compile(r"(\d+)(?:\s*[:,;](?:\s+|(?=\D))|[.)]?\s+)(\S.*)")  # but not 0,5 mm nor 0:30
_SYNSET = re.compile(r"(n\d{8})\s+(\S.*)")


def read_labels(path: Path) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """(names, wnids or None) of the classes by output: UTF-8 text with one a line, or JSON.

    Lines may all carry their number (`0 ash`, `0: ash`, `0,ash`) or their wnid (`n01440764 tench`); JSON is a list, an
    object of numbers to names, or of names to numbers. Raises `DataError` for what could be read in two ways.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: labels cannot be read ({exc})", "give a UTF-8 text file, one class a line") from exc
    if path.suffix == ".json" or text.lstrip().startswith(("[", "{")):
        return _from_json(path, text), None
    lines = [line.strip() for line in io.StringIO(text, newline=None)]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: no labels", "give one class name a line")
    if "" in lines:
        raise DataError(f"{path}:{lines.index('') + 1}: an empty line is no class", "remove it, or name the class")
    if lines[0].startswith("#"):
        raise DataError(f"{path}:1: {lines[0][:60]!r} may be a comment or a class", f"remove it, or {JSON_LIST}")
    if all(pairs := [_SYNSET.fullmatch(line) for line in lines]):
        return tuple(p[2] for p in pairs if p), tuple(p[1] for p in pairs if p)
    return _without_numbers(path, lines), None


def _without_numbers(path: Path, lines: Sequence[str]) -> tuple[str, ...]:
    """The names of lines that all carry their number; lines as they stand where they are not numbered."""
    pairs = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(p[1]) for p in pairs if p]
    if len(numbers) == len(lines):
        if sorted(numbers) == list(range(len(lines))):
            names = {int(p[1]): p[2] for p in pairs if p}
            return tuple(names[k] for k in range(len(lines)))
        if sorted(numbers) == list(range(1, len(lines) + 1)):
            raise DataError(
                f"{path}: its lines are numbered from 1, outputs from 0", f"remove the numbers, or {JSON_LIST}"
            )
    elif pairs[0] is None and 0 < len(numbers) == len(lines) - 1 and sorted(numbers) == list(range(len(numbers))):
        raise DataError(f"{path}:1: {lines[0][:60]!r} may be a heading or a class", f"remove it, or {JSON_LIST}")
    return tuple(lines)


def _from_json(path: Path, text: str) -> tuple[str, ...]:
    try:
        content: Any = json.loads(text, object_pairs_hook=_once)
    except ValueError as exc:
        raise DataError(f"{path}: labels are not valid JSON ({exc})", JSON_LIST) from exc
    if isinstance(content, dict):
        content = _by_number(content)
    if not isinstance(content, list) or not content or not all(isinstance(n, str) and n.strip() for n in content):
        raise DataError(
            f"{path}: neither a JSON list of class names nor an object that numbers them 0, 1, ...", JSON_LIST
        )
    return tuple(name.strip() for name in content)


def _by_number(content: dict[str, Any]) -> list[Any] | None:
    """The names in order where keys or values are 0, 1, ... without a gap."""
    for pairs in (list(content.items()), [(number, key) for key, number in content.items()]):
        named = {str(number): name for number, name in pairs if not isinstance(number, bool)}
        if set(named) == {str(k) for k in range(len(content))}:
            return [named[str(k)] for k in range(len(content))]
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found
