"""Results to stdout (a table, or JSON for machines), progress to stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgecnn.output import WIDTH, fact_lines, inert, inert_json, print_lines, print_verdicts, table_lines

if TYPE_CHECKING:
    from edgecnn.results.report import RunReport


def print_json(result: Any) -> None:
    """A result for machines: one JSON document on stdout."""
    print(inert_json(result, indent=1))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A plain table of `columns`, aligned, with a header; lists and floats in short form."""
    print_lines(table_lines(columns, [[_cell(row.get(c)) for c in columns] for row in rows]))


ROWS_SHOWN = 5  # of records inside facts; --json has all


def print_facts(facts: Mapping[str, object], indent: str = "") -> None:
    """Facts by name, nested ones indented, long lists shortened."""
    width = max((len(inert(str(k))) for k in facts), default=0)
    for key, value in facts.items():
        name = inert(str(key))
        if isinstance(value, dict) and value:
            print_lines([f"{indent}{name}"])
            print_facts(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print_lines([f"{indent}{name}" + (f" ({len(value)})" if len(value) > ROWS_SHOWN else "")])
            columns = [k for k in value[0] if not isinstance(value[0][k], dict)]
            shown = [[_cell(row.get(c)) for c in columns] for row in value[:ROWS_SHOWN]]
            heads = [str(c) for c in columns]
            print_lines(f"{indent}  {line}".rstrip() for line in table_lines(heads, shown, WIDTH - len(indent) - 2))
        else:
            print_lines(fact_lines({name.ljust(width): _fact(name, value)}, indent))


def _fact(name: str, value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:5] if len(value) > 12 else value))
        return inert(f"{shown} ... ({len(value)})" if len(value) > 12 else shown)
    text = inert(str(value))
    return f"{text[:32]} ... ({len(text)} characters)" if name.endswith("_bits") and len(text) > 40 else text


def print_report(report: RunReport) -> None:
    """What was measured and judged of a target, as text."""
    from edgecnn.report.terminal import terminal_report

    print_verdicts(terminal_report(report).split("\n"))


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
    if isinstance(value, (list, tuple)) and any(isinstance(v, float) for v in value):
        return f"[{', '.join(map(_cell, value))}]"
    if isinstance(value, (list, tuple)):
        return "x".join(_cell(v) for v in value)
    return inert(str(value))
