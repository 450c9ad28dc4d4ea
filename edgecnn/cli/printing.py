"""Results to stdout (a table, or JSON for machines), progress to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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


def say(message: str) -> None:
    """One line of progress on stderr."""
    print(message, file=sys.stderr, flush=True)


def counter(what: str, unit: str) -> Callable[[int, int], None]:
    """A line on stderr that counts `unit`, with rate and time left; every 5 s, on a terminal ten times a second.

    The rate counts from the first call: what an interrupted run did before does not belong to it.
    """
    terminal, shown = sys.stderr.isatty(), time.monotonic()
    begin: tuple[float, int] | None = None

    def show(done: int, total: int) -> None:
        nonlocal shown, begin
        now = time.monotonic()
        if begin is None:
            begin = now, done
            return
        started, first = begin
        finished = done >= total and terminal
        if now - shown < (0.1 if terminal else 5.0) and not finished:
            return
        shown = now
        rate = max(done - first, 1) / max(now - started, 1e-9)
        line = f"{what} {done}/{total} {unit}, {rate:.0f}/s, {(total - done) / rate:.0f} s left"
        print(
            f"\r{line}\033[K" if terminal else line,
            end="\n" if finished or not terminal else "",
            file=sys.stderr,
            flush=True,
        )

    return show


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"
    if isinstance(value, (list, tuple)):
        return "x".join(_cell(v) for v in value)
    return str(value)
