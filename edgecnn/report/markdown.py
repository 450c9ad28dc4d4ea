"""Markdown: the report of a run, and a comment for a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgecnn.report.tables import (
    Table,
    artifact_table,
    class_table,
    conditions,
    headline,
    judgement_table,
    measurement_table,
)

DELTAS = {"top1_pct": "top-1 %", "agreement_pct": "agreement %", "latency_ms_p50": "p50 ms", "size_mb": "size MB"}
MARKER = "<!-- edgecnn -->"  # by which a CI job finds its earlier comment


def markdown_report(results: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [
        f"# {_inline(headline(results))}",
        markdown_table(measurement_table(results)),
        "\n".join(f"- {_inline(line)}" for line in conditions(results)),
        "## Verdict per tolerance",
        markdown_table(judgement_table(results)) or "No tolerance is set: nothing was judged.",
    ]
    if classes := markdown_table(class_table(results)):
        parts += ["## Classes that lose most", classes]
    if artifacts := markdown_table(artifact_table(results)):
        parts += ["## What made each artifact", artifacts]
    return "\n\n".join(p for p in parts if p) + "\n"


def markdown_comment(results: Mapping[str, Any], accepted: Mapping[str, Any] | None = None) -> str:
    """A short comment: what failed or stayed open, and the numbers with their change against the accepted ones."""
    old = (accepted or {}).get("accepted", {})
    rows = []
    for m in results["measurements"]:
        before = old.get(m["name"], {})
        rows.append((str(m["name"]), *(_delta(m.get(key), before.get(key)) for key in DELTAS)))
    judgements = results["verdict"]["judgements"]
    open_ones = [j for j in judgements if j["verdict"] != "PASS"]
    parts = [
        MARKER,
        f"### {_inline(headline(results))}",
        "\n".join(
            f"- **{j['verdict']}** " + _inline(f"{j['name']}: {j['tolerance']} {_limit(j)}: {j['evidence']}")
            for j in open_ones
        )
        or f"All {len(judgements)} judgements passed.",
        markdown_table(Table(("precision", *DELTAS.values()), tuple(rows))),
        f"Changes are against the numbers accepted on `{accepted['device_key']}`."
        if accepted
        else "No accepted numbers for this device yet: `edgecnn gate --record` writes them.",
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A pipe table, or nothing for no rows."""
    if not table.rows:
        return ""
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join("| " + " | ".join(_inline(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def _inline(text: str) -> str:
    """Text in a line of its own: what Markdown would take for markup, HTML or the end of the line is escaped."""
    return " ".join(re.sub(r"[\\`*<]|\](?=\()|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text).split())


def _delta(now: float | None, before: float | None) -> str:
    if now is None:
        return "-"
    return f"{now:.4g}" if before is None else f"{now:.4g} ({now - before:+.3g})"


def _limit(judgement: Mapping[str, Any]) -> str:
    return "" if judgement["limit"] is None else f"(limit {judgement['limit']:g})"
