"""Accuracy on a page: drops with intervals, classes, confusion, and the images that changed."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.report.charts.inline import Scale, Whisker, kind_of, whisker_mark
from edgecnn.report.details import Confusion, Picture, RunDetails
from edgecnn.report.page.elements import Html, bullets, element, folded, join, section, table, table_of
from edgecnn.report.page.glossary import term
from edgecnn.report.tables import verification_table
from edgecnn.results.report import Measurement, RunReport
from edgecnn.statistics import wilson_interval

MATRIX = 20  # classes: a larger matrix is not read, its largest entries are
ENTRIES = 15
OPENED = 4  # engines: of more, each is read on demand


def interval_rows(
    head: Sequence[str], rows: Sequence[tuple[str, Whisker, Sequence[str]]], unit: str, line: float | None = 0.0
) -> Html:
    """A table whose second column draws each row's interval on one scale, with a line at a value where the scale holds
    it; `head` names the first column and those behind it."""
    if not rows:
        return Html()
    marks = [w for _, w, _ in rows]
    ends = [v for w in marks for v in (w.low, w.high, w.limit) if v is not None]
    scale = Scale.around([0.0, *ends] if min(ends) > 0 and min(ends) < max(ends) / 2 else ends)
    axis = element("span", f"{scale.low:.3g}"), element("span", f"{scale.high:.3g} {unit}")
    if line is not None and not scale.low <= line <= scale.high:
        line = None
    columns = [head[0], element("div", *axis, class_="ends"), *head[1:]]
    header = [element("th", c, scope="col", class_="chart" if k == 1 else None) for k, c in enumerate(columns)]
    body = [
        element(
            "tr",
            element("td", element("bdi", name)),
            element("td", whisker_mark(whisker, scale, line), class_="chart"),
            *(element("td", cell) for cell in cells),
        )
        for name, whisker, cells in rows
    ]
    inner = element(
        "table", element("thead", element("tr", *header)), element("tbody", join(body, "\n")), class_="rows"
    )
    return element("div", inner, class_="scroll", tabindex="0", role="group", aria_label="table")


def top1_interval(m: Measurement) -> tuple[float, float] | None:
    """Wilson's interval of an engine's top-1, in per cent."""
    found = m.accuracy
    if found is None or found.top1_n is None or not 0 <= found.top1_n <= found.n_labelled > 0:
        return None
    low, high = wilson_interval(found.top1_n, found.n_labelled)
    return 100 * low, 100 * high


def accuracy_section(results: RunReport) -> Html:
    """Drops and top-1 of all engines, each with its interval."""
    measured = [m for m in results.measurements if m.accuracy]
    if (pairs := verification_table(results)).rows:
        verified = [(m.name, m.verification) for m in results.measurements if m.verification]
        notes = [f"{name}: {said}" for name, one in verified for said in one.verification_findings]
        return section("Accuracy", table_of(pairs), bullets(notes))
    if not measured:
        return section("Accuracy", element("p", "No accuracy was measured."))
    limits = {c.name: c.limit for c in results.verdict.checks if c.tolerance == "top1_drop_pp_max"}
    drops, shares = [], []
    for m in measured:
        found, kind = m.accuracy, kind_of(m.engine.precision_requested)
        assert found is not None
        if found.top1_drop_pp is not None and found.top1_drop_ci_pp is not None:
            low, high = found.top1_drop_ci_pp
            whisker = Whisker(low, found.top1_drop_pp, high, kind, limits.get(m.name))
            said = f"{found.top1_drop_pp:.2f} [{low:.2f}, {high:.2f}]"
            drops.append((m.name, whisker, (said, f"{found.top1_lost} / {found.top1_gained}")))
        if found.top1_pct is not None and (interval := top1_interval(m)):
            top5 = "-" if found.top5_pct is None else f"{found.top5_pct:.2f}"
            cells = (f"{found.top1_pct:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]", top5, f"{found.agreement_pct:.2f}")
            shares.append((m.name, Whisker(interval[0], found.top1_pct, interval[1], kind), cells))
    n = {m.accuracy.n for m in measured if m.accuracy}
    data = ", ".join(sorted({m.accuracy.data for m in measured if m.accuracy}))
    counted = f"{min(n)} images" if len(n) == 1 else f"{min(n)} to {max(n)} images"
    unlabelled = [
        (m.name, f"{m.accuracy.agreement_pct:.2f}") for m in measured if m.accuracy and not m.accuracy.n_labelled
    ]
    dashed = " The dashed line is the tolerance." if any(w.limit is not None for _, w, _ in drops) else ""
    return section(
        "Accuracy",
        element(
            "p",
            counted,
            " of ",
            element("bdi", data),
            ", each engine against its ",
            term("reference"),
            ". Lines are 95 % ",
            term("interval", "intervals"),
            f".{dashed}",
        ),
        interval_rows(
            [
                "engine",
                join([term("drop", "top-1 drop"), ", ", term("pp")]),
                join([term("lost"), " / ", term("gained")]),
            ],
            drops,
            "pp",
        ),
        interval_rows(
            ["engine", join([term("top-1"), ", %"]), join([term("top-5"), ", %"]), join([term("agreement"), ", %"])],
            shares,
            "%",
        ),
        table(["engine", "agreement, %"], unlabelled),
        bullets(f"{m.name}: {said}" for m in measured if m.accuracy for said in m.accuracy.findings),
    )


def class_section(results: RunReport, details: RunDetails) -> Html:
    """The classes that lose most, and which class is taken for which."""
    parts = []
    for m in results.measurements:
        rows = []
        for loss in m.accuracy.worst_classes if m.accuracy else ():
            low, high = loss.top1_drop_ci_pp
            whisker = Whisker(low, loss.top1_drop_pp, high, kind_of(m.engine.precision_requested))
            said = f"{loss.top1_drop_pp:.1f} [{low:.1f}, {high:.1f}]"
            rows.append((loss.label_name, whisker, (said, f"{loss.top1_lost} / {loss.top1_gained}", str(loss.n))))
        drawn = interval_rows(["class", "drop, pp", "lost / gained", "images"], rows, "pp")
        matrix = next((_confusion(c, details.names) for c in details.confusions if c.name == m.name), Html())
        if drawn or matrix:
            lost = drawn or element("p", "No class loses more images than it gains.")
            summary = join(
                [element("bdi", m.name), f": classes that lose most: {len(rows)}" if rows else ": no class loses"]
            )
            parts.append(
                folded(
                    summary,
                    lost,
                    matrix,
                    opened=bool(m.accuracy and m.accuracy.changed) and len(results.measurements) <= OPENED,
                )
            )
    note = (
        "Intervals are of each class by itself; of many classes that lost nothing some look as if they had. In the ",
        term("confusion matrix"),
        ", a row is a label, a column what the engine said; under a count, the change against the reference.",
    )
    return section("Classes", element("p", *note, class_="note") if parts else Html(), *parts)


def _confusion(confusion: Confusion, names: Sequence[str]) -> Html:
    classes = sorted({c for pair in (*confusion.counts, *confusion.reference_counts) for c in pair})
    return _matrix(confusion, classes, names) if len(classes) <= MATRIX else _largest(confusion, names)


def _matrix(confusion: Confusion, classes: Sequence[int], names: Sequence[str]) -> Html:
    heads = [element("th", class_short(c), scope="col", title=class_name(c, names)) for c in classes]
    totals = {row: sum(n for (label, _), n in confusion.counts.items() if label == row) for row in classes}
    rows = []
    for row in (c for c in classes if totals[c]):
        cells = []
        for column in classes:
            n = confusion.counts.get((row, column), 0)
            change = n - confusion.reference_counts.get((row, column), 0)
            heat = -(-9 * n // totals[row])
            kinds = " ".join(k for k in (f"h{heat}" if heat else "", "own" if row == column else "") if k)
            said = (
                join([str(n), *([element("br"), element("small", f"{change:+d}")] if change else [])])
                if n or change
                else ""
            )
            cells.append(element("td", said, class_=kinds or None))
        head = element(
            "th", element("bdi", f"{row} {class_name(row, names)}" if _named(row, names) else str(row)), scope="row"
        )
        rows.append(element("tr", head, *cells))
    inner = element(
        "table",
        element("thead", element("tr", element("th"), *heads)),
        element("tbody", join(rows, "\n")),
        class_="matrix",
    )
    return element("div", inner, class_="scroll", tabindex="0", role="group", aria_label="confusion matrix")


def _largest(confusion: Confusion, names: Sequence[str]) -> Html:
    """The mistakes that changed most against the reference, then the most frequent."""

    def change(pair: tuple[int, int]) -> int:
        return confusion.counts.get(pair, 0) - confusion.reference_counts.get(pair, 0)

    wrong = [p for p in {*confusion.counts, *confusion.reference_counts} if p[0] != p[1]]
    chosen = sorted(wrong, key=lambda p: (-abs(change(p)), -confusion.counts.get(p, 0), p))[:ENTRIES]
    rows = [
        (class_name(p[0], names), class_name(p[1], names), str(confusion.counts.get(p, 0)), f"{change(p):+d}")
        for p in chosen
    ]
    return table(["label", "taken for", "images", "change"], rows)


def class_short(index: int) -> str:
    """A class in the head of a column."""
    return "NaN" if index < 0 else str(index)


def class_name(index: int, names: Sequence[str], without: str = "no finite logits") -> str:
    """A class in words; `without` for none."""
    if index < 0:
        return without
    return names[index] if index < len(names) else f"class {index}"


def _named(index: int, names: Sequence[str]) -> bool:
    return 0 <= index < len(names) and names[index] != str(index)


def picture_section(details: RunDetails) -> Html:
    """The images on which an engine says something else than its reference."""
    if not details.changed:
        return Html()
    shown = len(details.pictures)
    first = "" if shown == details.changed else f", of which {shown} are shown, those first that most engines lost"
    return section(
        "Images that changed",
        element(
            "p", f"Where an engine predicts another class than its reference: {details.changed}{first}.", class_="note"
        ),
        element("p", details.unseen, class_="note") if details.unseen else Html(),
        element("div", *(_figure(p, details.names) for p in details.pictures), class_="pictures"),
    )


def _figure(picture: Picture, names: Sequence[str]) -> Html:
    shown = (
        element("img", src=picture.uri, alt="", class_="small" if picture.pixelated else None)
        if picture.uri
        else Html()
    )
    right = "" if picture.label < 0 else " (right)" if picture.reference == picture.label else " (wrong)"
    lines = [
        element("p", "label: ", element("b", element("bdi", class_name(picture.label, names, "none")))),
        element("p", "reference: ", element("bdi", class_name(picture.reference, names)), right),
    ]
    for said, engines in sorted(picture.predictions.items()):
        verdict = "" if picture.label < 0 else " (right)" if said == picture.label else " (wrong)"
        lines.append(
            element("p", element("bdi", ", ".join(engines)), ": ", element("bdi", class_name(said, names)), verdict)
        )
    return element("figure", shown, element("figcaption", *lines, element("small", element("bdi", picture.id))))
