"""One recipe on several machines: devices x precisions, and which is best by each tolerance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edgecnn.output import table_lines, wrap
from edgecnn.results.host import HostRun
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import Check

FIGURES = ("top1_pct", "top1_drop_pp", "latency_ms_p50", "latency_ms_p99")
HEADER = ("host", "precision", "top-1 %", "drop pp", "p50 ms", "p99 ms", "verdict")


@dataclass(frozen=True)
class Best:
    """The value that is best by a tolerance, of the engines that pass it, and whose it is."""

    tolerance: str
    host: str
    target: str
    name: str
    value: float


def best_by_tolerance(hosts: Iterable[HostRun]) -> tuple[Best, ...]:
    """By each tolerance the engine that passes it and is furthest from its limit; the first of equals. Where none
    passes, none is named."""
    found, margins = dict[str, Best](), dict[str, float]()
    for host, report, check in _checks(hosts):
        if check.verdict != "PASS" or check.value is None or check.limit is None:
            continue
        margin = abs(check.limit - check.value)
        if margin > margins.get(check.tolerance, -1.0):
            margins[check.tolerance] = margin
            found[check.tolerance] = Best(check.tolerance, host.host, report.target, check.name, check.value)
    return tuple(found.values())


def devices_lines(hosts: Sequence[HostRun]) -> list[str]:
    """Every engine of every machine in a line; below, the devices, the best by each tolerance, and the machines that
    were not judged."""
    best = [(b.tolerance, b.host, b.target, b.name, f"{b.value:g}") for b in best_by_tolerance(hosts)]
    devices = [line for host in hosts for r in host.reports for line in wrap(f"{host.host} {r.target}: {r.device}")]
    parts = [
        table_lines(HEADER, rows) if (rows := list(_engines(hosts))) else [],
        devices,
        table_lines(("best by", "host", "target", "precision", "value"), best) if best else [],
        [line for host in hosts if host.not_judged for line in wrap(f"not judged: {host.not_judged}")],
    ]
    lines: list[str] = []
    for part in filter(None, parts):
        lines += [*([""] if lines else []), *part]
    return lines


def _checks(hosts: Iterable[HostRun]) -> Iterator[tuple[HostRun, RunReport, Check]]:
    for host in hosts:
        for report in host.reports:
            for check in report.verdict.checks:
                yield host, report, check


def _engines(hosts: Iterable[HostRun]) -> Iterator[tuple[str, ...]]:
    for host in hosts:
        for report in host.reports:
            where = f"{host.host} {report.target}" if len(host.reports) > 1 else host.host
            for m in report.measurements:
                figures = [m.figure(key) for key in FIGURES]
                cells = ["-" if value is None else f"{value:.3f}" for value in figures]
                yield (where, m.name, *cells, report.verdict.outcome_of(m.name))
