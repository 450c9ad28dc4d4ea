"""Plain text for a terminal: the measurements, the checks that did not pass, what belongs to the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.output import inert, table_lines, wrap
from edgecnn.report.tables import VERIFICATION_COLUMNS, headline, verification_row
from edgecnn.results.latency import LatencyRatio
from edgecnn.results.report import Measurement, RunReport
from edgecnn.results.verdict import MEASURED, Check


def terminal_report(results: RunReport) -> str:
    """The report in lines of 80 columns; what passed is counted. All evidence, and what made each artifact, is left to
    the files."""
    parts = [
        _accuracy_lines(results.measurements),
        _latency_lines([m for m in results.measurements if m.latency and not m.simulated]),
        [line for note in results.notes for line in wrap(note)],
        _check_lines(results.verdict.checks),
        wrap(headline(results)),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _accuracy_lines(measurements: Sequence[Measurement]) -> list[str]:
    header = ("precision", "n", "top-1 %", "top-1 drop pp [95 %]", "agreement %", "size MB")
    if any(m.verification for m in measurements):
        return table_lines(VERIFICATION_COLUMNS, [verification_row(m) for m in measurements])
    rows = []
    for m in measurements:
        drop = (m.accuracy.top1_drop_pp, m.accuracy.top1_drop_ci_pp) if m.accuracy else (None, None)
        figures = [_cell(m.figure(key), ".2f") for key in ("top1_pct", "agreement_pct", "size_mb")]
        rows.append((m.name, _cell(m.figure("n"), "d"), figures[0], _with_interval(*drop, ".2f"), *figures[1:]))
    return table_lines(header, rows) if rows else []


def _latency_lines(measurements: Sequence[Measurement]) -> list[str]:
    """Latencies that are the engine's own, each ratio under the name of what it is to."""
    references = list(dict.fromkeys(m.ratio.latency_reference for m in measurements if m.ratio))
    header = ["precision", "p50 ms", "p90 ms", "p99 ms", *(f"x {name} [95 %]" for name in references), "images/s"]
    rows = []
    for m in measurements:
        percentiles = [_cell(m.figure(f"latency_ms_{key}"), ".3f") for key in ("p50", "p90", "p99")]
        ratios = [_ratio(m.ratio) if m.ratio and m.ratio.latency_reference == name else "-" for name in references]
        rows.append((m.name, *percentiles, *ratios, _cell(m.figure("throughput_images_per_s"), ".0f")))
    modes: dict[str, list[str]] = {}
    for m in measurements:
        if m.latency:
            modes.setdefault(f"{m.latency.mode} queries of {m.latency.batch}", []).append(m.name)
    said = [f"{mode}: {', '.join(names)}" if len(modes) > 1 else mode for mode, names in modes.items()]
    return [*table_lines(header, rows), *(line for one in said for line in wrap(one))] if rows else []


def _check_lines(checks: Sequence[Check]) -> list[str]:
    """Each check that did not pass, with its evidence, and how many did."""
    others = [check for check in checks if check.verdict != "PASS"]
    lines: list[str] = []
    for check in others:
        limit = "" if check.limit is None else f", limit {check.limit:g}"
        lines += wrap(f"{check.name} {check.tolerance}{limit}", f"{check.verdict}  ")
        lines += wrap(check.evidence, "  ", "")
    passed = len(checks) - len(others)
    return [*lines, *([f"{passed} check{'s' * (passed != 1)} passed"] if passed and others else [])]


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


def _ratio(ratio: LatencyRatio) -> str:
    form = ".3f" if ratio.latency_ratio >= 0.01 else ".2g"
    return _with_interval(ratio.latency_ratio, ratio.latency_ratio_ci, form)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _with_interval(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    bounds = "" if value is None or interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"
    return _cell(value, form) + bounds
