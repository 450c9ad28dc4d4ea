"""Results to stdout (a table, or JSON for machines), progress to stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def print_json(result: Any) -> None:
    """A result for machines: one JSON document on stdout."""
    print(json.dumps(result, indent=1, ensure_ascii=False))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A plain table of `columns`, aligned, with a header; lists and floats in short form."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max([len(c), *(len(r[k]) for r in cells)]) for k, c in enumerate(columns)]
    for line in [list(columns), *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: dict[str, object], indent: str = "") -> None:
    """Facts by name, nested ones indented, long lists shortened."""
    width = max((len(k) for k in facts), default=0)
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}")
            print_facts(value, indent + "  ")
        elif isinstance(value, list) and len(value) > 12:
            print(f"{indent}{key.ljust(width)}  {', '.join(map(str, value[:5]))} ... ({len(value)})")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"{indent}{key.ljust(width)}  {shown}")


def say(message: str) -> None:
    """One line of progress on stderr."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stdout_kept() -> Iterator[None]:
    """What a user's network prints meanwhile goes to stderr: stdout is for the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"
    if isinstance(value, (list, tuple)):
        return "x".join(_cell(v) for v in value)
    return str(value)
