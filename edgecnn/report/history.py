"""A recipe's baselines over the history of its repository, and the table of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgecnn.artifact.git_log import FileVersion, file_versions
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.output import fit, inert, wrap
from edgecnn.records import mapping_from_json, record_from_mapping
from edgecnn.results.accuracy_baseline import AccuracyBaselines
from edgecnn.results.baseline import Baseline
from edgecnn.results.history import History, HistoryRow
from edgecnn.statistics import wilson_interval

SHOWN_UNREADABLE = 5


def read_history(recipe: str, folder: Path) -> History:
    """The baselines in `folder` by every commit that recorded some. A version that cannot be read is named, and hides
    no other. Raises `ArtifactError` without git, `MeasurementError` where no commit has a baseline."""
    versions = file_versions(folder, ".json")
    if not versions:
        there = any(folder.glob("*.json"))
        raise MeasurementError(
            f"{folder}: {'its baselines are in no commit' if there else 'no commit has a baseline'}",
            "commit them" if there else "record one with `edgecnn gate RUN --record`, and commit it",
        )
    rows, unreadable = list[HistoryRow](), list[str]()
    for version in versions:
        try:
            rows += _rows(version)
        except ArtifactError as exc:
            unreadable.append(f"{version.commit[:8]} {exc.message}")
    return History(recipe=recipe, rows=tuple(rows), unreadable=tuple(unreadable))


def _rows(version: FileVersion) -> Iterator[HistoryRow]:
    where = f"{version.path.name}: not a baseline"
    content = mapping_from_json(version.content, where, "")
    commit, time, subject = version.commit, version.time.isoformat(timespec="seconds"), version.subject
    if "backend" in content:
        file = record_from_mapping(AccuracyBaselines, content, where, "")
        for one in file.engines:
            n, right = one.last.n_labelled, one.last.top1_n
            if not 0 <= right <= n:
                raise ArtifactError(f"{where}: {right} of {n} images are right", "")
            low, high = wilson_interval(right, n)
            yield HistoryRow(
                commit=commit,
                time=time,
                subject=subject,
                device_key="",
                engine=" ".join(filter(None, (file.precision, one.scheme, file.backend))),
                n=n,
                top1_pct=one.last.top1_pct,
                top1_ci_pct=(100 * low, 100 * high),
            )
        return
    baseline = record_from_mapping(Baseline, content, where, "")
    for name, row in baseline.engines.items():
        yield HistoryRow(
            commit=commit,
            time=time,
            subject=subject,
            device_key=baseline.device_key,
            engine=name,
            batch=row.batch,
            latency_ms_p50=row.latency_ms_p50,
            latency_ms_p50_ci=row.latency_ms_p50_ci,
            size_mb=row.size_mb,
        )


def history_text(found: History) -> str:
    """Accuracies, then latencies of each device, in 80 columns: the oldest first, each with its change."""
    sections = [f"{inert(found.recipe)}: baselines of {len({row.commit for row in found.rows})} commits"]
    for device in sorted({row.device_key for row in found.rows}):
        rows = [row for row in found.rows if row.device_key == device]
        table = _latencies(rows) if device else _accuracies(rows)
        sections.append("\n".join([*wrap(device or "accuracy, on any device"), *table]))
    notes = [line for text in found.unreadable[:SHOWN_UNREADABLE] for line in wrap(f"not read: {text}")]
    if (more := len(found.unreadable) - SHOWN_UNREADABLE) > 0:
        notes.append(f"not read: {more} more versions")
    return "\n\n".join([*sections, *(["\n".join(notes)] if notes else [])])


def _accuracies(rows: list[HistoryRow]) -> Iterator[str]:
    yield f"  {'date':10}  {'commit':8}  {'engine':20} {'n':>7}  {'top-1 % [95 %]':19} {'change':>6}"
    last: dict[str, float] = {}
    for row in rows:
        top1, (low, high) = row.top1_pct or 0.0, row.top1_ci_pct or (0.0, 0.0)
        change = f"{top1 - last[row.engine]:+.2f}" if row.engine in last else "-"
        last[row.engine] = top1
        shown = f"{top1:.2f} [{low:.1f}, {high:.1f}]"
        yield f"  {row.time[:10]}  {row.commit[:8]}  {fit(row.engine, 20)} {row.n:>7}  {shown:19} {change:>6}".rstrip()


def _latencies(rows: list[HistoryRow]) -> Iterator[str]:
    yield f"  {'date':10}  {'commit':8}  {'engine':18} {'batch':>5}  {'p50 ms':>9} {'change':>8}  {'size MB':>9}"
    last: dict[tuple[str, int | None], float] = {}
    for row in rows:
        key, p50 = (row.engine, row.batch), row.latency_ms_p50
        change = f"{100 * (p50 / last[key] - 1):+.1f} %" if p50 and last.get(key) else "-"
        if p50:
            last[key] = p50
        cells = f"{_number(row.batch):>5}  {_number(p50):>9} {change:>8}  {_number(row.size_mb):>9}"
        yield f"  {row.time[:10]}  {row.commit[:8]}  {fit(row.engine, 18)} {cells}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
