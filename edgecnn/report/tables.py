"""The tables that the formats for readers share, as text cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgecnn.records import to_plain
from edgecnn.results.report import Measurement, RunReport


@dataclass(frozen=True)
class Table:
    """A header and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headline(results: RunReport) -> str:
    """Recipe, target and verdict in one line."""
    return f"{results.recipe} on {results.target}: {results.verdict.verdict}"


def conditions(results: RunReport) -> list[str]:
    """The sentences that belong to the numbers: device, clock, warnings, findings, notes."""
    lines = [f"Device: {results.device}"] if results.device else []
    for m in results.measurements:
        if latency := m.own_latency:
            clocks = "".join(f", {k} {v}" for k, v in to_plain(latency.clocks).items())
            lines.append(
                f"{m.name}: {latency.mode} mode, batch {latency.batch}, {latency.n_queries} queries, "
                f"{latency.in_words}{clocks}" + (f", optimization profile {latency.profile}" if latency.profile else "")
            )
            if m.own_ratio and m.own_ratio.latency_ratio_mode != latency.mode:
                lines.append(
                    f"{m.name}: the ratio is of {m.own_ratio.latency_ratio_mode} queries on both sides: "
                    f"{m.own_ratio.latency_reference} runs no others"
                )
            lines += [f"{m.name}: {m.energy.in_words}; {m.energy.source}"] if m.energy else []
            lines += [f"{m.name}: {w}" for w in latency.warnings]
        lines += [f"{m.name}: {w}" for w in (m.own_ratio.latency_ratio_warnings if m.own_ratio else ())]
        lines += [f"{m.name}: {f}" for f in (m.accuracy.findings if m.accuracy else ())]
        lines += [f"{m.name}: {f}" for f in (m.verification.verification_findings if m.verification else ())]
    return [*lines, *results.notes]


VERIFICATION_COLUMNS = (
    "precision", "pairs", "verified %", "drop pp [95 %]", "ROC AUC [95 %]", "least cosine", "size MB",
)  # fmt: skip


def verification_row(m: Measurement) -> tuple[str, ...]:
    """One engine in these columns."""
    found, size = m.verification, _cell(m.figure("size_mb"), ".2f")
    if found is None:
        return (m.name, *["-"] * 5, size)
    return (
        m.name,
        f"{found.same_pairs + found.different_pairs}",
        f"{found.verification_pct:.2f}",
        _with_interval(found.verification_drop_pp, found.verification_drop_ci_pp, ".2f"),
        _with_interval(found.roc_auc, found.roc_auc_ci, ".3f"),
        _cell(found.embedding_cosine_least, ".4f"),
        size,
    )


def verification_table(results: RunReport) -> Table:
    """How the embeddings of a run verify; no rows where it has none."""
    rows = [
        (
            *verification_row(m)[:-1],
            _cell(found.embedding_cosine_mean, ".4f"),
            f"{found.decisions_changed_n}",
            _with_interval(found.tar_at_far_1e2_pct, found.tar_at_far_1e2_ci_pct, ".2f"),
            _with_interval(found.tar_at_far_1e3_pct, found.tar_at_far_1e3_ci_pct, ".2f"),
            f"{found.verification_threshold:.4g}",
        )
        for m in results.measurements
        if (found := m.verification)
    ]
    more = ("mean cosine", "decisions changed", "TAR % at FAR 1e-2", "TAR % at FAR 1e-3", "threshold")
    return Table((*VERIFICATION_COLUMNS[:-1], *more), tuple(rows))


def measurement_table(results: RunReport) -> Table:
    """Precision x (accuracy, latency, size); of embeddings `verification_table` has the accuracy."""
    classifying: tuple[tuple[str, Callable[[Measurement], str]], ...] = (
        ("n", lambda m: _cell(m.figure("n"), "d")),
        ("top-1 %", lambda m: _cell(m.figure("top1_pct"), ".2f")),
        ("top-5 %", lambda m: _cell(m.figure("top5_pct"), ".2f")),
        ("top-1 drop pp [95 %]", _drop),
        ("agreement %", lambda m: _cell(m.figure("agreement_pct"), ".2f")),
    )
    columns: tuple[tuple[str, Callable[[Measurement], str]], ...] = (
        ("precision", lambda m: m.name),
        *(() if any(m.verification for m in results.measurements) else classifying),
        ("mode", lambda m: m.own_latency.mode if m.own_latency else "-"),
        ("p50 ms", lambda m: _cell(m.figure("latency_ms_p50"), ".3f")),
        ("p90 ms", lambda m: _cell(m.figure("latency_ms_p90"), ".3f")),
        ("p99 ms", lambda m: _cell(m.figure("latency_ms_p99"), ".3f")),
        ("ratio [95 %]", _ratio),
        ("images/s", lambda m: _cell(m.figure("throughput_images_per_s"), ".0f")),
        *((("J/inference [95 %]", _joules),) if any(m.own_energy for m in results.measurements) else ()),
        ("size MB", lambda m: _cell(m.figure("size_mb"), ".2f")),
    )
    rows = [tuple(cell(m) for _, cell in columns) for m in results.measurements]
    return Table(tuple(head for head, _ in columns), tuple(rows))


def _joules(m: Measurement) -> str:
    found = m.own_energy
    return _with_interval(found.joules_per_inference, found.joules_per_inference_ci, ".4g") if found else "-"


def _drop(m: Measurement) -> str:
    found = m.accuracy
    return _with_interval(found.top1_drop_pp, found.top1_drop_ci_pp, ".2f") if found else "-"


def _ratio(m: Measurement) -> str:
    ratio = m.own_ratio
    return _with_interval(ratio.latency_ratio, ratio.latency_ratio_ci, ".3f") if ratio else "-"


def check_table(results: RunReport) -> Table:
    """The verdict of every tolerance, with its evidence."""
    rows = [(j.verdict, j.name, j.tolerance, _cell(j.limit, "g"), j.evidence) for j in results.verdict.checks]
    return Table(("verdict", "precision", "tolerance", "limit", "evidence"), tuple(rows))


def artifact_table(results: RunReport) -> Table:
    """What made each artifact."""
    rows = [(a.path, a.kind, a.made_by, (a.sha256 or "")[:12], ", ".join(a.parents)) for a in results.artifacts]
    return Table(("artifact", "kind", "made by", "sha256", "from"), tuple(rows))


def class_table(results: RunReport) -> Table:
    """The classes that lose most."""
    rows = [
        (
            m.name,
            c.label_name,
            str(c.n),
            str(c.top1_lost),
            str(c.top1_gained),
            _with_interval(c.top1_drop_pp, c.top1_drop_ci_pp, ".1f"),
        )
        for m in results.measurements
        for c in (m.accuracy.worst_classes if m.accuracy else ())
    ]
    return Table(("precision", "class", "n", "lost", "gained", "top-1 drop pp [95 %]"), tuple(rows))


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _with_interval(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    if value is None:
        return "-"
    if interval is None:
        return format(value, form)
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"
