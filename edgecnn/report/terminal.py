"""Plain text for a terminal: the measurements, the verdict of each tolerance, what belongs to the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.output import inert
from edgecnn.report.tables import Table, check_table, headline, measurement_table
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import MEASURED, Check


def terminal_report(results: RunReport) -> str:
    """The report as aligned text; what made each artifact is left to the files."""
    parts = [
        _aligned(measurement_table(results)),
        _aligned(check_table(results)),
        "\n".join(map(inert, results.notes)),
        inert(headline(results)),
    ]
    return "\n\n".join(p for p in parts if p)


def closing_line(reports: Sequence[RunReport]) -> str:
    """How many checks failed, how many stayed open, and which: the last line of what a person reads."""
    checks = [(report, check) for report in reports for check in report.verdict.checks]
    counted = f"{len(checks)} check{'s' * (len(checks) != 1)}"
    parts: list[str] = []
    for outcome, word in (("FAIL", "failed"), ("INCONCLUSIVE", "inconclusive")):
        found = [(r, c) for r, c in checks if c.verdict == outcome]
        if found:
            names = ", ".join(_named(r, c, several=len(reports) > 1) for r, c in found)
            parts.append(f"{len(found)} {'' if parts else f'of {counted} '}{word}{_mapped(found)}: {names}")
    return inert("; ".join(parts)) or (f"all {counted} passed" if checks else "nothing was checked")


def _mapped(found: Sequence[tuple[RunReport, Check]]) -> str:
    """What the recipe makes of open checks, where it says the same of all."""
    outcomes = {report.verdict.counts_as(check) for report, check in found if check.verdict == "INCONCLUSIVE"}
    return {"FAIL": " (a fail by the recipe)", "PASS": " (a pass by the recipe)"}.get("".join(outcomes), "")


def _named(report: RunReport, check: Check, *, several: bool) -> str:
    where = f"{report.target} " if several and check.name != report.target else ""
    return f"{where}{check.name} {'not ' * (check.tolerance == MEASURED)}{check.tolerance}"


def _aligned(table: Table) -> str:
    if not table.rows:
        return ""
    lines = [tuple(map(inert, line)) for line in (table.header, *table.rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table.header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
