"""Runs side by side: what each keeps of the first, on the same images, in a terminal and as a page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from edgecnn.artifact.run_folder import TargetRun
from edgecnn.errors import MeasurementError
from edgecnn.output import fit, wrap
from edgecnn.report.charts.inline import Point, kind_of
from edgecnn.report.page.document import document
from edgecnn.report.page.elements import Html, bullets, element, section, table
from edgecnn.report.page.latency import DRAWN_MS, tradeoff_chart
from edgecnn.results.accuracy import Accuracy, Interval
from edgecnn.results.comparison import ComparedEngine, ComparedRun, Comparison
from edgecnn.results.correctness import unpack_bits
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Outcome
from edgecnn.statistics import difference_interval, drop_interval

Column = tuple[str, str, TargetRun, Outcome | None]  # a run as it was named, its recipe, a target of it, its verdict


def compare(columns: Sequence[Column]) -> Comparison:
    """The engines of two targets or more, those of one precision and scheme below each other, each against the first
    that has it. Raises `MeasurementError` for fewer, and for accuracies on other images."""
    if len(columns) < 2:
        raise MeasurementError(
            f"{columns[0][0]}: one target alone has nothing to be compared with", "name a second run"
        )
    _require_same_images(columns)
    runs = tuple(
        ComparedRun(
            number=number,
            run=name,
            recipe=recipe,
            target=run.target,
            device=str(run.device) if run.device else "",
            device_key=run.device.key if run.device else "",
            verdict=verdict or "",
        )
        for number, (name, recipe, run, verdict) in enumerate(columns, 1)
    )
    found = [(number, m) for number, column in enumerate(columns, 1) for m in column[2].measurements]
    kinds = dict.fromkeys((m.engine.precision_requested, m.engine.scheme) for _, m in found)
    rows = []
    for kind in kinds:
        same = [(number, m) for number, m in found if (m.engine.precision_requested, m.engine.scheme) == kind]
        rows += [_row(number, m, None if k == 0 else same[0][1]) for k, (number, m) in enumerate(same)]
    known = [m.accuracy for _, m in found if m.accuracy]
    return Comparison(
        data=known[0].data if known else "",
        n=known[0].n if known else None,
        runs=runs,
        engines=tuple(rows),
        notes=(*_notes(runs, rows), *_of_embeddings(columns)),
    )


def _require_same_images(columns: Sequence[Column]) -> None:
    known = [(name, run, m.accuracy) for name, _, run, _ in columns for m in run.measurements if m.accuracy]
    for (name, run, first), (other_name, other_run, other) in ((known[0], row) for row in known[1:]):
        where = f"{name} ({run.target}) was measured on {first.data} (n = {first.n})"
        if first.images_sha256 and other.images_sha256:
            if first.images_sha256 == other.images_sha256:
                continue
        elif (first.data, first.n) == (other.data, other.n):
            continue
        what = "other images of it" if (first.data, first.n) == (other.data, other.n) else other.data
        raise MeasurementError(
            f"{where}, {other_name} ({other_run.target}) on {what} (n = {other.n}): no comparison of accuracies",
            "measure both on the same images: `edgecnn run RECIPE --data IMAGES`",
        )


def _row(number: int, m: Measurement, first: Measurement | None) -> ComparedEngine:
    drop = interval = paired = lost = gained = None
    if first is not None and m.accuracy and first.accuracy:
        drop, interval, paired, lost, gained = _drop(first.accuracy, m.accuracy)
    latency, accuracy = m.own_latency, m.accuracy
    return ComparedEngine(
        number=number,
        name=m.name,
        precision=m.engine.precision_requested,
        scheme=m.engine.scheme,
        simulated=m.simulated,
        n=accuracy.n if accuracy else None,
        top1_pct=accuracy.top1_pct if accuracy else None,
        top1_ci_pct=accuracy.top1_ci_pct if accuracy else None,
        agreement_pct=accuracy.agreement_pct if accuracy else None,
        drop_pp=drop,
        drop_ci_pp=interval,
        paired=paired,
        lost=lost,
        gained=gained,
        mode=latency.mode if latency else "",
        batch=latency.batch if latency else None,
        latency_ms_p50=latency.latency_ms_p50 if latency else None,
        latency_ms_p50_ci=latency.latency_ms_p50_ci if latency else None,
        throughput_images_per_s=latency.throughput_images_per_s if latency else None,
        device_memory_mb=m.startup.device_memory_mb if m.startup else None,
        size_mb=m.figure("size_mb"),
    )


def _drop(
    first: Accuracy, other: Accuracy
) -> tuple[float | None, Interval | None, bool | None, int | None, int | None]:
    """(drop, interval, paired, lost, gained) from `first` to `other`, on the same images."""
    if first.top1_pct is None or other.top1_pct is None:
        return None, None, None, None, None
    n = other.n_labelled
    if first.top1_bits and other.top1_bits and first.top1_n is not None and other.top1_n is not None:
        before, now = (
            unpack_bits(a.top1_bits, n, a.top1_n or 0, f"the accuracy of {a.name}", "validate it again")
            for a in (first, other)
        )
        lost, gained = int((before & ~now).sum()), int((now & ~before).sum())
        low, high = drop_interval(lost, gained, n)
        return 100 * (lost - gained) / n, (100 * low, 100 * high), True, lost, gained
    counts = [round(a.top1_pct * a.n_labelled / 100) for a in (first, other) if a.top1_pct is not None]
    low, high = difference_interval(counts[0], first.n_labelled, counts[1], n)
    return first.top1_pct - other.top1_pct, (100 * low, 100 * high), False, None, None


def _notes(runs: Sequence[ComparedRun], rows: Sequence[ComparedEngine]) -> Iterator[str]:
    keys = {run.device_key for run in runs if run.device_key}
    if len(keys) > 1:
        yield "the latencies are of different devices: they say which device is faster, not which engine"
    timed: dict[tuple[str, str], set[tuple[str, int | None]]] = {}
    for row in rows:
        if row.latency_ms_p50 is not None:
            timed.setdefault((row.precision, row.scheme), set()).add((row.mode, row.batch))
    if any(len(kinds) > 1 for kinds in timed.values()):
        yield "latencies of one engine were measured with other batches or modes: they are not comparable"
    elif len(keys) == 1 and any(row.latency_ms_p50 is not None for row in rows):
        yield "latencies were measured on different occasions: only `edgecnn bench --vs` takes them in turn"
    if any(row.paired is False for row in rows):
        yield "an earlier version did not keep which images were right: its drop is that of two samples"
    if any(row.simulated for row in rows):
        yield "simulated engines carry no latency"


def _of_embeddings(columns: Sequence[Column]) -> Iterator[str]:
    """What takes the place of top-1 where embeddings verify."""
    for name, _, run, _ in columns:
        if any(m.verification for m in run.measurements):
            yield f"{name} is of an embedding network: how it verifies `edgecnn report {run.folder}` shows"


def comparison_text(found: Comparison) -> str:
    """The runs, their engines and the notes, in 80 columns."""
    lines = []
    for run in found.runs:
        verdict = f": {run.verdict}" if run.verdict else ", not judged"
        device = f" ({run.device})" if run.device else ""
        lines += wrap(f"{run.number}  {run.run}: {run.recipe} on {run.target}{device}{verdict}")
    lines += ["", *wrap(f"{found.data}, n = {found.n}" if found.n else "no top-1 was measured"), ""]
    lines.append(f"{'engine':15} {'run':>3}  {'top-1 % [95 %]':20}  {'drop pp [95 %]':21} {'p50 ms':>7} {'MB':>6}")
    for row in found.engines:
        cells = f"{_interval(row.top1_pct, row.top1_ci_pct):20}  {_interval(row.drop_pp, row.drop_ci_pp):21}"
        lines.append(
            f"{fit(row.name, 15)} {row.number:>3}  {cells} {_short(row.latency_ms_p50):>7} {_short(row.size_mb):>6}"
        )
    return "\n".join([*lines, "", *(line for note in found.notes for line in wrap(note))]).rstrip()


def _interval(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if interval is None else f"{value:.2f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _short(value: float | None) -> str:
    """In at most six characters."""
    return "-" if value is None else f"{value:.4f}"[:6].rstrip(".") if value < 1e6 else f"{value:.0e}"


HEADS = (
    "engine", "run", "n", "top-1 % [95 %]", "drop pp [95 %]", "lost", "gained", "agreement %", "p50 ms", "images/s",
    "batch", "mode", "memory MB", "size MB",
)  # fmt: skip


def comparison_html(found: Comparison) -> str:
    """One page without scripts or outside references; every section stands by itself."""
    title = "Runs compared: " + ", ".join(dict.fromkeys(run.recipe for run in found.runs))
    runs = [(str(r.number), r.run, r.recipe, r.target, r.device, r.verdict or "not judged") for r in found.runs]
    said = f"{found.data}, n = {found.n}. A drop is from the first run with the engine."
    return document(
        title,
        element("h1", title),
        table(("run", "folder", "recipe", "target", "device", "verdict"), runs),
        element("p", said) if found.n else Html(),
        table(HEADS, [_html_cells(row) for row in found.engines]),
        bullets(found.notes),
        section("Accuracy against latency", *_charts(found)),
    )


def _charts(found: Comparison) -> Iterator[Html]:
    """One for each device key, batch and mode, whose latencies alone can be compared."""
    keys, points = {run.number: run.device_key for run in found.runs}, defaultdict[str, list[Point]](list)
    for row in found.engines:
        cost, top1, interval = row.latency_ms_p50, row.top1_pct, row.top1_ci_pct
        if cost is not None and DRAWN_MS[0] <= cost <= DRAWN_MS[1] and top1 is not None and interval is not None:
            where = f"{keys[row.number] or 'unknown device'}, batch {row.batch}, {row.mode}"
            kind = kind_of(row.precision)
            points[where].append(Point(f"{row.name}, run {row.number}", cost, top1, interval, kind))
    for where, shown in points.items():
        yield tradeoff_chart(shown, where)


def _html_cells(row: ComparedEngine) -> tuple[str, ...]:
    counts = (row.lost, row.gained, row.agreement_pct, row.latency_ms_p50, row.throughput_images_per_s, row.batch)
    shown = [_number(value) for value in counts]
    return (
        row.name,
        str(row.number),
        _number(row.n),
        _interval(row.top1_pct, row.top1_ci_pct),
        _interval(row.drop_pp, row.drop_ci_pp),
        *shown,
        row.mode or "-",
        _number(row.device_memory_mb),
        _number(row.size_mb),
    )
