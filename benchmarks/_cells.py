"""What a column of a table says of a row."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from _result import Row

Cell = Callable[[Row], str]


def key(name: str) -> Cell:
    """What was measured, as code."""
    return lambda row: f"`{row[name]}`"


def value(name: str, digits: int = 2) -> Cell:
    """One number, or the median of several; "-" where the row has none."""

    def text(row: Row) -> str:
        found = row.get(name)
        if found is None:
            return "-"
        return f"{statistics.median(found) if isinstance(found, list) else found:.{digits}f}"

    return text


def interval(name: str, digits: int = 3) -> Cell:
    """Both ends of one; "-" where the row has none."""
    return lambda row: f"[{row[name][0]:.{digits}f}, {row[name][1]:.{digits}f}]" if row.get(name) else "-"


def either(name: str, yes: str, no: str) -> Cell:
    """Which of two the row is."""
    return lambda row: yes if row.get(name) else no


def text(name: str) -> Cell:
    """Words; "-" where the row has none."""
    return lambda row: str(row.get(name, "-")).replace("|", "/").replace("<", "&lt;")


def tool(name: str) -> Cell:
    """Multiples and megabytes of one tool."""

    def text(row: Row) -> str:
        found = row.get(name)
        if found is None or "left_out" in found:
            return "-"
        return f"{found['cpu_ratio']:.1f} / {found['peak_mb']}" if "cpu_ratio" in found else "fails"

    return text


def quality(method: str | None = None) -> Cell:
    """SQNR and agreement of a tool's graph, or of ours by a method at the same share."""

    def text(row: Row) -> str:
        found = row if method is None else row.get("edgecnn", {}).get(method, {})
        if "sqnr_db" in found:
            return f"{found['sqnr_db']:.2f} / {found['agreement_pct']:.1f}"
        return "-" if method else "illegal" if "illegal" in row else "fails"

    return text


def times_cpu(method: str) -> Cell:
    """CPU seconds of ours by a method, as a multiple of the tool's."""

    def text(row: Row) -> str:
        ours, theirs = row.get("edgecnn", {}).get(method, {}).get("cpu_s"), row.get("cpu_s")
        return f"{ours / theirs:.1f}" if ours and theirs else "-"

    return text


def gain(row: Row) -> str:
    """Decibels won, and the standard error where there is one."""
    won, error = row.get("sqnr_gain_db"), row.get("sqnr_gain_error_db")
    return "-" if won is None else f"{won:+.2f}" if error is None else f"{won:+.2f} ± {error:.2f}"
