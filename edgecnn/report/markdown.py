"""Markdown: the report of a run, and a comment for a pull request."""

from __future__ import annotations

import re
from dataclasses import replace

from edgecnn.output import inert
from edgecnn.report.tables import (
    Table,
    artifact_table,
    check_table,
    class_table,
    conditions,
    headline,
    measurement_table,
    verification_table,
)
from edgecnn.results.accuracy_baseline import BaselineDrop
from edgecnn.results.baseline import Baseline, BaselineRow
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import Check

DELTAS = {"top1_pct": "top-1 %", "agreement_pct": "agreement %", "latency_ms_p50": "p50 ms", "size_mb": "size MB"}
_MARKUP = re.compile(r"[\\`*~<]|\](?=\()|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
MARKER = "<!-- edgecnn -->"  # by which a CI job finds its earlier comment


def markdown_report(results: RunReport) -> str:
    """The whole report."""
    parts = [
        f"# {_inline(headline(results))}",
        markdown_table(verification_table(results)),
        markdown_table(measurement_table(results)),
        "\n".join(map(_item, conditions(results))),
        "## Verdict per tolerance",
        markdown_table(check_table(results)) or "No tolerance is set: nothing was judged.",
    ]
    if classes := markdown_table(class_table(results)):
        parts += ["## Classes that lose most", classes]
    if artifacts := markdown_table(artifact_table(results)):
        parts += ["## What made each artifact", artifacts]
    return "\n\n".join(p for p in parts if p) + "\n"


def markdown_comment(results: RunReport, baseline: Baseline | None = None) -> str:
    """A short comment: what failed or stayed open, and the numbers with their change against the baseline."""
    rows = []
    for m in results.measurements:
        before = baseline.engines.get(m.name, BaselineRow()) if baseline else BaselineRow()
        if m.latency and before.mode not in ("", m.latency.mode):
            before = replace(before, latency_ms_p50=None)  # latencies of different modes have no difference
        last = m.baseline_drops[0] if m.baseline_drops else None
        rows.append((m.name, *(_delta(m.figure(key), _before(key, last, before)) for key in DELTAS)))
    checks = results.verdict.checks
    open_ones = [j for j in checks if j.verdict != "PASS"]
    parts = [
        MARKER,
        f"### {_inline(headline(results))}",
        "\n".join(
            f"- **{j.verdict}** " + _inline(f"{j.name}: {j.tolerance}{_limit(j)}: {j.evidence}") for j in open_ones
        )
        or (f"All {len(checks)} checks passed." if checks else "No tolerance is set: nothing was judged."),
        markdown_table(Table(("precision", *DELTAS.values()), tuple(rows))),
        _compared_with(results, baseline),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _compared_with(results: RunReport, baseline: Baseline | None) -> str:
    """What the changes in a comment's table are to; nothing of a target that was not measured."""
    if baseline:
        return f"Changes are against the baseline of {_inline(baseline.device_key)}."
    if not results.measurements:
        return ""
    of_accuracy = any(m.baseline_drops for m in results.measurements)
    no_other = "No baseline for this device yet: `edgecnn gate --record` writes it."
    return f"Changes are against the last baseline of accuracy. {no_other}" if of_accuracy else no_other


def _before(key: str, *baselines: BaselineDrop | BaselineRow | None) -> float | None:
    found: float | None = next((getattr(b, key) for b in baselines if hasattr(b, key)), None)
    return found


def markdown_table(table: Table) -> str:
    """A pipe table, or nothing for no rows."""
    if not table.rows:
        return ""
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join("| " + " | ".join(_inline(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def _inline(text: str) -> str:
    """Text in a line of its own: what Markdown would take for markup, HTML or the end of the line is escaped."""
    return _MARKUP.sub(r"\\\g<0>", inert(" ".join(text.split())))


def _item(text: str) -> str:
    """A line of a list: what would begin a heading, a quotation, a rule or another list is escaped."""
    return "- " + re.sub(r"^(\d*)(?=[#>+=.)-])", r"\1\\", _inline(text))


def _delta(now: float | None, before: float | None) -> str:
    if now is None:
        return "-"
    return f"{now:.4g}" if before is None else f"{now:.4g} ({now - before:+.3g})"


def _limit(check: Check) -> str:
    return "" if check.limit is None else f" (limit {check.limit:g})"
