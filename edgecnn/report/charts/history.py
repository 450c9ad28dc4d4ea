"""Baselines over commits as SVG: one panel for the accuracies, one for the latencies of each device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgecnn.output import inert, inert_html
from edgecnn.results.history import History, HistoryRow

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 300, 70, 210, 40, 50  # of a panel, and its margins, pixels
COLORS = ("#2f78a8", "#d98200", "#1f8a3b", "#a83f8e", "#8a5a00", "#5b6770")
LABELLED, LEGEND = 8, 14  # commits with a date, and series with a name
STYLE = """
svg { background: #fff; color: #222; font: 13px system-ui, sans-serif }
text { fill: currentColor } .grid { stroke: #8884 }
@media (prefers-color-scheme: dark) { svg { background: #16181b; color: #ddd } }
"""


@dataclass(frozen=True)
class _Point:
    at: int
    value: float
    low: float
    high: float
    tip: str


def history_svg(found: History) -> str:
    """Each baseline at its commit, with its 95 % interval; commits stand in their order, at equal distances."""
    commits = list(dict.fromkeys(row.commit for row in found.rows))
    panels = []
    for device in sorted({row.device_key for row in found.rows}):
        rows = [row for row in found.rows if row.device_key == device]
        point, title = (_latency, f"p50 ms, {device}") if device else (_top1, "top-1 %, on any device")
        series: dict[str, list[_Point]] = {}
        for row in rows:
            if (made := point(row, commits.index(row.commit))) is not None:
                series.setdefault(row.engine, []).append(made)
        if series:
            panels.append((title, series))
    dates = {row.commit: row.time[:10] for row in found.rows}
    parts = [
        f'<g transform="translate(0 {30 + k * HEIGHT})">' + "".join(_panel(title, series, commits, dates)) + "</g>"
        for k, (title, series) in enumerate(panels)
    ]
    height = 30 + HEIGHT * len(panels)
    heading = _text(LEFT, 22, f"Baselines of {found.recipe}", 'font-size="16"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<style>{STYLE}</style>{heading}" + "\n".join(parts) + "</svg>\n"
    )


def _top1(row: HistoryRow, at: int) -> _Point | None:
    if row.top1_pct is None:
        return None
    low, high = row.top1_ci_pct or (row.top1_pct, row.top1_pct)
    return _Point(at, row.top1_pct, low, high, f"{_tip(row)}: {row.top1_pct:.2f} % [{low:.2f}, {high:.2f}]")


def _latency(row: HistoryRow, at: int) -> _Point | None:
    if row.latency_ms_p50 is None:
        return None
    low, high = row.latency_ms_p50_ci or (row.latency_ms_p50, None)
    most = row.latency_ms_p50 if high is None else high
    return _Point(at, row.latency_ms_p50, low, most, f"{_tip(row)}: {row.latency_ms_p50:.4g} ms, batch {row.batch}")


def _tip(row: HistoryRow) -> str:
    return f"{row.engine}, {row.time[:10]} {row.commit[:8]} {row.subject}"


def _panel(title: str, series: dict[str, list[_Point]], commits: Sequence[str], dates: dict[str, str]) -> Iterator[str]:
    points = [p for row in series.values() for p in row]
    low, high = min(p.low for p in points), max(p.high for p in points)
    spare = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - spare, high + spare
    step = (WIDTH - LEFT - RIGHT) / max(len(commits) - 1, 1)

    def x(at: int) -> float:
        return LEFT + step * at

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    yield _text(LEFT, TOP - 14, title, 'font-weight="bold"')
    for k in range(5):
        value = low + (high - low) * k / 4
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        yield _text(LEFT - 6, y(value) + 4, f"{value:.4g}", 'text-anchor="end"')
    every = -(-len(commits) // LABELLED)
    for at in range(0, len(commits), every):
        yield _text(x(at), HEIGHT - BOTTOM + 18, dates[commits[at]], 'text-anchor="middle" font-size="11"')
        yield _text(x(at), HEIGHT - BOTTOM + 32, commits[at][:8], 'text-anchor="middle" font-size="10"')
    for k, (name, row) in enumerate(series.items()):
        yield from _line(name, row, COLORS[k % len(COLORS)], k, x, y)


def _line(
    name: str, row: Sequence[_Point], color: str, k: int, x: Callable[[int], float], y: Callable[[float], float]
) -> Iterator[str]:
    path = " ".join(f"{x(p.at):.1f},{y(p.value):.1f}" for p in row)
    dash = f' stroke-dasharray="{2 + 3 * (k // len(COLORS))} 3"' if k >= len(COLORS) else ""
    yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dash}/>'
    for p in row:
        yield f'<line x1="{x(p.at):.1f}" x2="{x(p.at):.1f}" y1="{y(p.low):.1f}" y2="{y(p.high):.1f}" stroke="{color}"/>'
        tip = inert_html(inert(p.tip))
        yield f'<circle cx="{x(p.at):.1f}" cy="{y(p.value):.1f}" r="3.5" fill="{color}"><title>{tip}</title></circle>'
    if k < LEGEND:
        shown = name if len(name) <= 26 else f"{name[:24]}.."
        yield f'<rect x="{WIDTH - RIGHT + 16}" y="{TOP + 16 * k}" width="10" height="10" fill="{color}"/>'
        yield _text(WIDTH - RIGHT + 32, TOP + 9 + 16 * k, shown)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{inert_html(inert(text))}</text>'
