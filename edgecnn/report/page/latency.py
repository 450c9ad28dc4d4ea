"""Latency on a page: distributions, percentiles, and accuracy against it."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.report.charts.inline import (
    LABELLED,
    Histogram,
    Point,
    Whisker,
    histogram,
    kind_of,
    scatter,
)
from edgecnn.report.page.accuracy import interval_rows, top1_interval
from edgecnn.report.page.elements import Html, bullets, element, join, section, table
from edgecnn.report.page.glossary import term
from edgecnn.results.latency import Latency, LatencyRatio
from edgecnn.results.report import Measurement, RunReport

DRAWN_MS = (1e-6, 1e9)  # a logarithmic axis takes what a clock can tell
PERCENTILES = ("p50", "p90", "p95", "p99")


def latency_section(results: RunReport) -> Html:
    """Each engine's distribution and percentiles, and its ratio to the reference."""
    timed = [(m, m.own_latency) for m in results.measurements if m.own_latency]
    if not timed:
        simulated = bool(results.measurements) and all(m.simulated for m in results.measurements)
        why = "Every engine is simulated: its time says nothing." if simulated else "No latency was measured."
        return section("Latency", element("p", why))
    ratios = [
        (
            m.name,
            Whisker(*_around(m.own_ratio.latency_ratio, m.own_ratio.latency_ratio_ci), kind_of(_precision(m))),
            (_ratio(m.own_ratio),),
        )
        for m, _ in timed
        if m.own_ratio
    ]
    reference = results.reference or "the reference"
    return section(
        "Latency",
        element("p", f"On {results.device or 'an unnamed device'}: ", term("latency"), " of a query in milliseconds."),
        element("div", *(_plot(m, latency) for m, latency in timed), class_="plots"),
        _percentiles(timed),
        interval_rows(["engine", join([term("ratio"), " to ", element("bdi", reference)])], ratios, "x", 1.0),
    )


def _around(value: float, interval: tuple[float, float]) -> tuple[float, float, float]:
    return interval[0], value, interval[1]


def _precision(m: Measurement) -> str:
    return m.engine.precision_requested


def _ratio(found: LatencyRatio) -> str:
    low, high = found.latency_ratio_ci
    return f"{found.latency_ratio:.3g} [{low:.3g}, {high:.3g}]"


def _plot(m: Measurement, latency: Latency) -> Html:
    marks = [(p, v) for p in PERCENTILES if (v := getattr(latency, f"latency_ms_{p}")) is not None]
    bins, counts = latency.latency_ms_bins, latency.latency_ms_bin_n
    drawn = histogram(Histogram(bins, counts, marks, kind_of(_precision(m)))) if bins else Html()
    beyond = latency.n_queries - sum(counts)
    said = f", {latency.latency_ms_min:.4g} to {latency.latency_ms_max:.4g} ms"
    said += f", {beyond} slower than drawn" if bins and beyond else "" if bins else "; the distribution was not kept"
    words = f": {latency.n_queries} queries of {latency.batch}, {latency.mode}{said}"
    return element(
        "figure", drawn, element("figcaption", element("b", element("bdi", m.name)), words), bullets(latency.warnings)
    )


def _percentiles(timed: Sequence[tuple[Measurement, Latency]]) -> Html:
    rows = [
        (
            element("bdi", m.name),
            *(_number(getattr(latency, f"latency_ms_{p}")) for p in PERCENTILES),
            _number(latency.latency_ms_mean),
            f"{latency.throughput_images_per_s:.0f}",
            join([term(latency.mode), ", ", term("clock"), f" {latency.clock}"]),
        )
        for m, latency in timed
    ]
    heads = [*(join([term(p), ", ms"]) for p in PERCENTILES), "mean, ms", "images/s", "how"]
    return table(["engine", *heads], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def tradeoff_section(runs: Sequence[RunReport]) -> Html:
    """Top-1 against median latency: every engine of every run, one chart for each device key."""
    charts = []
    for key in dict.fromkeys(r.device_key for r in runs):
        here = [r for r in runs if r.device_key == key]
        several = len(here) > 1
        points = [
            Point(
                label=f"{r.recipe} {r.target} {m.name}" if several else m.name,
                cost=m.own_latency.p50,
                accuracy_pct=m.accuracy.top1_pct,
                interval=interval,
                kind=kind_of(_precision(m)),
            )
            for r in here
            for m in r.measurements
            if m.own_latency
            and DRAWN_MS[0] <= m.own_latency.p50 <= DRAWN_MS[1]
            and m.accuracy
            and m.accuracy.top1_pct is not None
            if (interval := top1_interval(m))
        ]
        if points:
            charts.append(tradeoff_chart(points, term("device key"), f" {key or 'unknown'}"))
    simulated = sum(m.simulated for r in runs for m in r.measurements)
    said = f"{simulated} simulated engines have no latency: they are not drawn." if charts and simulated else ""
    return section("Accuracy against latency", *charts, element("p", said, class_="note") if said else Html())


def tradeoff_chart(points: Sequence[Point], *where: str) -> Html:
    """Points wide, and for narrow screens; below them what the latencies belong to."""
    numbered = [element("li", element("bdi", p.label)) for p in points] if len(points) > LABELLED else []
    kinds = dict.fromkeys(p.kind for p in points)
    box = {"viewBox": "0 0 10 10", "aria_hidden": "true"}
    swatch = [
        element("span", element("svg", element("rect", width=10, height=10, class_=k), **box), k, class_="key")
        for k in kinds
    ]
    return element(
        "figure",
        element("div", scatter(points, 760), class_="wide"),
        element("div", scatter(points, 350), class_="narrow"),
        element("p", *swatch),
        element("ol", *numbered) if numbered else Html(),
        element("figcaption", *where, "; up and to the left is better"),
    )
