"""Plain text for a terminal: the measurements, the verdict of each tolerance, what belongs to the numbers."""

from __future__ import annotations

from edgecnn.report.tables import Table, check_table, headline, measurement_table
from edgecnn.results.report import RunReport


def terminal_report(results: RunReport) -> str:
    """The report as aligned text; what made each artifact is left to the files."""
    parts = [
        _aligned(measurement_table(results)),
        _aligned(check_table(results)),
        "\n".join(results.notes),
        headline(results),
    ]
    return "\n\n".join(p for p in parts if p)


def _aligned(table: Table) -> str:
    if not table.rows:
        return ""
    lines = [table.header, *table.rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table.header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
