"""Files with the names of a model's classes, in the order of its outputs."""

from __future__ import annotations

import ast
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.data.label_table import read_label_table
from edgecnn.errors import DataError
from edgecnn.limits import read_file
from edgecnn.records import parse_json

IMAGENET_CLASSES = 1000
JSON_LIST = 'write the names as a JSON list, ["first", "second", ...]'
_SEPARATOR = r"\s*[-=]>\s*|\s+-\s+|\s*[:,;=|](?:\s+|(?=\D))|\.(?:\s+|(?=\D))|\)\s*|\s+"  # but not 0,5 mm nor 0:30
_NUMBERED = (
    re.compile(rf"\(?(?P<number>\d+)(?P<by>{_SEPARATOR})(?P<name>\S.*)"),
    re.compile(r"(?P<name>(?=.*?[^\d\s]).*?\S)(?P<by>\t\s*|\s*[,;:=|]\s*)(?P<number>\d+)"),
)
_MAYBE_IN_A_NAME = {"", ".", ",", ":"}  # what parts a number from a name, and may stand in a name: 5 rupees, ratio 4:3
_CELL = r'"?(?:(?:class|label)[ _]?(?:id|index|name)?|id|idx|index|number|name|category)"?'
_HEADING = re.compile(rf"{_CELL}\s*[,;\t]\s*{_CELL}", re.IGNORECASE)  # of a table of numbers and names
_WNID = re.compile(r"n\d{8}")
_SYNSET = re.compile(r"(n\d{8})[\s,;:]\s*(\S.*)")


def read_labels(path: Path) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """(names, wnids or None) of the classes by output: UTF-8 text with one a line, or JSON.

    Lines may all carry their number (`0 ash`, `0: ash`, `ash,0`; in a table below `index,name` or the like) or their
    wnid (`n01440764 tench`); a .csv or .tsv with a heading that it knows, or with quotes, is read as
    `read_label_table` says; JSON, or what Python prints, is a list, an object of numbers to names or of names to
    numbers, or a model's configuration with `id2label`; in place of a name [wnid, name] may stand. Raises `DataError`
    for what could be read in two ways, and for two classes of one name or wnid (of the 1 000 names of ImageNet some
    are alike).
    """
    names, wnids = _read(path)
    told_apart = wnids or (names if len(names) != IMAGENET_CLASSES else ())
    if twice := next((name for name, count in Counter(told_apart).items() if count > 1), None):
        first, second = [k for k, name in enumerate(told_apart) if name == twice][:2]
        raise DataError(f"{path}: {twice!r} is the name of the classes {first} and {second}", "give each its own name")
    return names, wnids


def _read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: labels cannot be read ({exc})", "give a UTF-8 text file, one class a line") from exc
    if path.suffix == ".json" or text.lstrip().startswith(("[", "{")):
        return _split_wnids(_parse(text, str(path)), str(path))
    if path.suffix.lower() in (".csv", ".tsv") and (table := read_label_table(text, str(path))) is not None:
        return table
    lines = _lines(path, text)
    names = _without_numbers(path, lines)
    pairs = [_SYNSET.fullmatch(name) for name in names]
    if all(pairs):
        return tuple(p[2] for p in pairs if p), tuple(p[1] for p in pairs if p)
    for k, name in enumerate(names):
        if pairs[k] or name.startswith('"') or (name[0] == name[-1] == "'" and len(name) > 1):
            raise DataError(f"{path}: {name[:60]!r} is a wnid or a quotation, where other lines are names", JSON_LIST)
    return names, None


def _lines(path: Path, text: str) -> list[str]:
    """The lines without what surrounds them; raises `DataError` for one that is no class or may be none."""
    lines = [line.strip() for line in io.StringIO(text, newline=None)]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: no labels", "give one class name a line")
    for k, line in enumerate(lines, 1):
        if not line:
            raise DataError(f"{path}:{k}: an empty line is no class", "remove it, or name the class")
        if "\ufeff" in line or "\0" in line:
            raise DataError(f"{path}:{k}: a byte-order mark or a NUL in {line[:60]!r}", "save it as UTF-8 text")
        if line.startswith(("- ", "* ")):
            raise DataError(f"{path}:{k}: {line[:60]!r} may be an item of YAML or a class", JSON_LIST)
    if len(lines) > 1 and all(line.endswith(",") for line in lines[:-1]):
        raise DataError(f"{path}:1: {lines[0][:60]!r} ends in a comma, as every line does", JSON_LIST)
    if lines[0].startswith("#"):
        raise DataError(f"{path}:1: {lines[0][:60]!r} may be a comment or a class", f"remove it, or {JSON_LIST}")
    return lines


def _without_numbers(path: Path, lines: Sequence[str]) -> tuple[str, ...]:
    """The names of lines that all carry their number, before or behind; lines as they stand where none does."""
    for form in _NUMBERED:
        found = {k: pair for k, line in enumerate(lines) if (pair := form.fullmatch(line))}
        numbers = {k: _number(pair["number"]) for k, pair in found.items()}
        if sorted(numbers.values()) == list(range(len(lines))):
            names = {numbers[k]: pair["name"] for k, pair in found.items()}
            return tuple(names[k] for k in range(len(lines)))
        if sorted(numbers.values()) == list(range(1, len(lines) + 1)):
            raise DataError(
                f"{path}: its lines are numbered from 1, outputs from 0", f"remove the numbers, or {JSON_LIST}"
            )
        if found and 0 not in found and _HEADING.fullmatch(lines[0]):
            return _without_numbers(path, lines[1:])
        if found and 0 not in found and sorted(numbers.values()) == list(range(len(lines) - 1)):
            raise DataError(f"{path}:1: {lines[0][:60]!r} may be a heading or a class", f"remove it, or {JSON_LIST}")
        surely = any("\t" in pair["by"] or pair["by"].strip() not in _MAYBE_IN_A_NAME for pair in found.values())
        if surely or _may_count(numbers, len(lines)):
            odd = next((k for k in range(len(lines)) if numbers.get(k) != k), 0)
            raise DataError(
                f"{path}:{odd + 1}: {lines[odd][:60]!r}: lines carry numbers, but not 0, 1, ... {len(lines) - 1}, each "
                "once",
                f"number every line, or none, or {JSON_LIST}",
            )
    return tuple(lines)


def _may_count(numbers: Mapping[int, int], lines: int) -> bool:
    """Whether the numbers of some lines, by line, may be meant as those of the classes: `5 rupees` is a name."""
    values = sorted(numbers.values())
    if len(values) < lines:
        return bool(values) and (0 in values or any(all(n == k + i for k, n in numbers.items()) for i in (0, 1)))
    return values[0] < 2 or values == list(range(values[0], values[0] + lines))


def _number(digits: str) -> int:
    """A number as written, or one that no class has: Python converts 4300 digits at most."""
    return int(digits) if len(digits) < 10 else 10**10


def labels_from_json(text: str, where: str) -> tuple[str, ...]:
    """The names of a list, or of an object that numbers them, in JSON or as Python prints it; raises `DataError` that
    begins with `where`."""
    return labels_from_object(_parse(text, where), where)


def _parse(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as exc:
        try:
            tree = ast.parse(text.strip(), mode="eval")
            content = ast.literal_eval(tree)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            tree = None
        if tree is None or any(_has_twice(n.keys) for n in ast.walk(tree) if isinstance(n, ast.Dict)):
            raise DataError(f"{where}: labels are not valid JSON ({exc})", JSON_LIST) from exc
        return content


def _has_twice(keys: Sequence[ast.expr | None]) -> bool:
    """Whether a mapping as Python prints it has one key twice, of which it would keep the last."""
    values = [key.value for key in keys if isinstance(key, ast.Constant)]
    return len(set(values)) < len(values)


def _split_wnids(content: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Names and wnids of pairs of both, as Keras and torchvision number them; else names alone."""
    pairs = _by_number(content) if isinstance(content, dict) else content
    if isinstance(pairs, list) and pairs and all(_is_pair(pair) for pair in pairs):
        return labels_from_object([name for _, name in pairs], where), tuple(wnid for wnid, _ in pairs)
    return labels_from_object(content, where), None


def _is_pair(pair: Any) -> bool:
    two = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
    return two and _WNID.fullmatch(pair[0]) is not None


def labels_from_object(content: Any, where: str) -> tuple[str, ...]:
    """The names of a list, or of a mapping of numbers to names or names to numbers, which in a model's configuration of
    Hugging Face stands under `id2label`; raises `DataError`."""
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    if isinstance(content, dict):
        content = _by_number(content)
    if not isinstance(content, list) or not content or not all(isinstance(n, str) and n.strip() for n in content):
        raise DataError(
            f"{where}: neither a JSON list of class names nor an object that numbers them 0, 1, ...", JSON_LIST
        )
    return tuple(name.strip() for name in content)


def _by_number(content: dict[Any, Any]) -> list[Any] | None:
    """The names in order where keys or values are 0, 1, ... without a gap."""
    for pairs in (list(content.items()), [(number, key) for key, number in content.items()]):
        named = {str(number): name for number, name in pairs if not isinstance(number, bool)}
        if set(named) == {str(k) for k in range(len(content))}:
            return [named[str(k)] for k in range(len(content))]
    return None
