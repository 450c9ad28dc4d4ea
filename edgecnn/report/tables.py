"""The tables that the formats for readers share, as text cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headline(results: Mapping[str, Any]) -> str:
    """Recipe, target and verdict in one line."""
    return f"{results['recipe']} on {results['target']}: {results['verdict']['verdict']}"


def conditions(results: Mapping[str, Any]) -> list[str]:
    """The sentences that belong to the numbers: device, clock, warnings, findings, notes."""
    device = ", ".join(f"{k} {v}" for k, v in (results.get("device") or {}).items())
    lines = [f"Device: {device}"] if device else []
    for m in results["measurements"]:
        if m.get("n_queries"):
            copies = "with" if m.get("transfers") else "without"
            graph = "a CUDA graph" if m.get("graph") else "no CUDA graph"
            lines.append(
                f"{m['name']}: {m['mode']} mode, batch {m['batch']}, {m['n_queries']} queries, clock {m['clock']}, "
                f"{copies} transfers, {graph}, {m['sync']}" + _clocks(m)
            )
        lines += [f"{m['name']}: {w}" for w in m.get("warnings") or ()]
        lines += [f"{m['name']}: {w}" for w in m.get("latency_ratio_warnings") or ()]
        lines += [f"{m['name']}: {f}" for f in m.get("findings") or ()]
    return [*lines, *results.get("notes", ())]


def measurement_table(results: Mapping[str, Any]) -> Table:
    """Precision x (accuracy, latency, size)."""
    header = (
        "precision", "n", "top-1 %", "top-5 %", "top-1 drop pp [95 %]", "agreement %",
        "p50 ms", "p90 ms", "p99 ms", "ratio [95 %]", "images/s", "size MB",
    )  # fmt: skip
    rows = [
        (
            str(m["name"]),
            _cell(m.get("n"), "d"),
            _cell(m.get("top1_pct"), ".2f"),
            _cell(m.get("top5_pct"), ".2f"),
            _with_interval(m.get("top1_drop_pp"), m.get("top1_drop_ci_pp"), ".2f"),
            _cell(m.get("agreement_pct"), ".2f"),
            _cell(m.get("latency_ms_p50"), ".3f"),
            _cell(m.get("latency_ms_p90"), ".3f"),
            _cell(m.get("latency_ms_p99"), ".3f"),
            _with_interval(m.get("latency_ratio"), m.get("latency_ratio_ci"), ".3f"),
            _cell(m.get("throughput_images_per_s"), ".0f"),
            _cell(m.get("size_mb"), ".2f"),
        )
        for m in results["measurements"]
    ]
    return Table(header, tuple(rows))


def judgement_table(results: Mapping[str, Any]) -> Table:
    """The verdict of every tolerance, with its evidence."""
    rows = [
        (j["verdict"], j["name"], j["tolerance"], _cell(j["limit"], "g"), j["evidence"])
        for j in results["verdict"]["judgements"]
    ]
    return Table(("verdict", "precision", "tolerance", "limit", "evidence"), tuple(rows))


def artifact_table(results: Mapping[str, Any]) -> Table:
    """What made each artifact."""
    rows = [
        (a["path"], a["kind"], a["made_by"], (a["sha256"] or "")[:12], ", ".join(a["parents"]))
        for a in results.get("artifacts", ())
    ]
    return Table(("artifact", "kind", "made by", "sha256", "from"), tuple(rows))


def class_table(results: Mapping[str, Any]) -> Table:
    """The classes that lose most."""
    rows = [
        (
            str(m["name"]),
            c["label_name"],
            str(c["n"]),
            f"{c['top1_lost']}",
            f"{c['top1_gained']}",
            _with_interval(c["top1_drop_pp"], c["top1_drop_ci_pp"], ".1f"),
        )
        for m in results["measurements"]
        for c in m.get("worst_classes") or ()
    ]
    return Table(("precision", "class", "n", "lost", "gained", "top-1 drop pp [95 %]"), tuple(rows))


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def _with_interval(value: float | None, interval: Any, form: str) -> str:
    if value is None:
        return "-"
    if interval is None:
        return format(value, form)
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _clocks(measurement: Mapping[str, Any]) -> str:
    clocks = measurement.get("clocks") or {}
    return "".join(f", {k} {v}" for k, v in clocks.items())
