"""Names of a model's classes out of a table: CSV, or TSV, with a heading or with quoted cells."""

from __future__ import annotations

import csv
import io

from edgecnn.errors import DataError

_NUMBER = {
    "index",
    "idx",
    "id",
    "number",
    "class_id",
    "class_index",
    "class_idx",
    "label_id",
    "label_index",
    "label_idx",
}
_NAME = {"name", "class", "label", "category", "class_name", "label_name", "class_label", "category_name"}
_WNID = {"wnid", "synset", "synset_id", "wordnet_id"}
_HINT = "one column of names (name), and where lines are not in order one of numbers from 0 (index)"
_Labels = tuple[tuple[str, ...], tuple[str, ...] | None]


def read_label_table(text: str, where: str) -> _Labels | None:
    """(names, wnids or None) by output of a table that says by its heading which columns are names, numbers and wnids,
    or whose two columns are a number and a quoted name; None for text that is neither, and is read as lines.

    Raises `DataError` that begins with `where` for a heading that names two columns alike, and for numbers that are
    not 0, 1, ... each once.
    """
    rows = _cells(text)
    if not rows:
        return None
    columns = _columns(rows[0], where)
    if columns is None:
        quoted = '"' in text and all(len(row) == 2 and row[0].isdecimal() for row in rows)
        return _ordered(rows, {"name": 1, "number": 0}, where, first=1) if quoted else None
    return _ordered(rows[1:], columns, where, first=2)


def _cells(text: str) -> list[list[str]]:
    """The rows that are not empty, by the separator that the first one has."""
    first = text.lstrip("\ufeff").partition("\n")[0]
    separator = next((s for s in "\t;," if s in first), ",")
    rows = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=separator)
    return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]


def _columns(heading: list[str], where: str) -> dict[str, int] | None:
    """Where names, numbers and wnids stand; None without a heading that says where the names are."""
    found: dict[str, int] = {}
    for k, cell in enumerate(cell.lower().replace(" ", "_").replace("-", "_") for cell in heading):
        kind = next((n for n, known in (("name", _NAME), ("number", _NUMBER), ("wnid", _WNID)) if cell in known), "")
        if kind in found:
            raise DataError(f"{where}:1: {heading[found[kind]]!r} and {heading[k]!r} may both be the {kind}", _HINT)
        if kind:
            found[kind] = k
    return found if "name" in found else None


def _ordered(rows: list[list[str]], columns: dict[str, int], where: str, first: int) -> _Labels:
    width = max(columns.values()) + 1
    if not rows:
        raise DataError(f"{where}: a heading without classes", _HINT)
    for k, row in enumerate(rows, first):
        if len(row) < width or not row[columns["name"]]:
            raise DataError(f"{where}:{k}: no name of a class", _HINT)
    if "number" in columns:
        numbers = [row[columns["number"]] for row in rows]
        if sorted(numbers) != sorted(map(str, range(len(rows)))):
            raise DataError(f"{where}: its numbers are not 0, 1, ... {len(rows) - 1}, each once", _HINT)
        rows = [rows[numbers.index(str(k))] for k in range(len(rows))]
    names = tuple(row[columns["name"]] for row in rows)
    return names, tuple(row[columns["wnid"]] for row in rows) if "wnid" in columns else None
