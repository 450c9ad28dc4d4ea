"""Results to stdout (a table, or JSON for machines), progress to stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgecnn.output import inert, inert_json, print_line, print_lines

if TYPE_CHECKING:
    from edgecnn.results.report import RunReport


def print_json(result: Any) -> None:
    """A result for machines: one JSON document on stdout."""
    print(inert_json(result, indent=1))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A plain table of `columns`, aligned, with a header; lists and floats in short form."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max([len(c), *(len(r[k]) for r in cells)]) for k, c in enumerate(columns)]
    for line in [list(columns), *cells]:
        print_line("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: dict[str, object], indent: str = "") -> None:
    """Facts by name, nested ones indented, long lists shortened."""
    width = max((len(inert(str(k))) for k in facts), default=0)
    for key, value in facts.items():
        name = inert(str(key))
        if isinstance(value, dict) and value:
            print_line(f"{indent}{name}")
            print_facts(value, indent + "  ")
        elif isinstance(value, list) and len(value) > 12:
            print_line(f"{indent}{name.ljust(width)}  {', '.join(map(str, value[:5]))} ... ({len(value)})")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print_line(f"{indent}{name.ljust(width)}  {shown}")


def print_report(report: RunReport) -> None:
    """What was measured and judged of a target, as text."""
    from edgecnn.report.terminal import terminal_report

    print_lines(terminal_report(report).split("\n"))


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
    return inert(str(value))
