"""Rows for other programs: CSV and JSON lines, the one writer of both."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from edgecnn.artifact.write import atomic_path
from edgecnn.errors import WriteError
from edgecnn.output import inert, inert_json

Cell: TypeAlias = "str | float | bool | None"
FORMULA = frozenset("=+-@＝＋－＠")  # what a spreadsheet computes, or runs
SUFFIXES = (".csv", ".jsonl")


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> Iterator[str]:
    """CSV by RFC 4180 but for its line ends, which are plain; UTF-8, with a header; None is empty. Text that a
    spreadsheet would take for a formula has an apostrophe before it, and control characters are shown as escapes."""
    yield _csv_line(columns)
    for row in rows:
        yield _csv_line([_csv_cell(row.get(name)) for name in columns])


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _csv_cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = inert(value)
        return f"'{shown}" if FORMULA.intersection(shown.lstrip()[:1]) else shown
    return repr(value)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write rows one by one as CSV or as JSON lines, which the suffix says; the file is whole or not there. Raises
    `WriteError` for another suffix."""
    require_rows_suffix(path)
    lines = csv_lines(columns, rows) if path.suffix == ".csv" else (_json_line(columns, row) for row in rows)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)


def _json_line(columns: Sequence[str], row: Mapping[str, Cell]) -> str:
    return inert_json({name: row.get(name) for name in columns}) + "\n"


def require_rows_suffix(path: Path) -> None:
    """Raise `WriteError` for a file that is neither .csv nor .jsonl."""
    if path.suffix not in SUFFIXES:
        raise WriteError(f"{path}: rows are written as {' or '.join(SUFFIXES)}", "name it, for example, rows.csv")
