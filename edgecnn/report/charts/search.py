"""Graphs that a search tried: the drop that is expected of each over its latency, its energy or its share of INT8."""

from __future__ import annotations

from collections.abc import Iterator

from edgecnn.output import inert, inert_html
from edgecnn.results.search import Search, SearchPoint

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 70, 20, 60, 50  # pixels
STYLE = """
svg { background: #fff; color: #222; font: 12px system-ui, sans-serif }
text { fill: currentColor } .axis { stroke: #8888 } .budget { stroke: #b3261e; stroke-dasharray: 6 4 }
@media (prefers-color-scheme: dark) { svg { background: #16181b; color: #ddd } }
"""


def search_svg(found: Search) -> str:
    """A dot for each graph (filled: asked on test images; ringed: the answer), the budget as a line."""
    measured = found.objective != "coverage"
    points = [p for p in found.points if _place(found, p) is not None]
    across = [x for p in points if (x := _place(found, p)) is not None] or [0.0]
    most = 1.1 * max([found.max_drop_pp, *(p.expected_bound_pp for p in points)])
    low, high = (0.0, 1.05 * max([1.0, *across])) if measured else (0.0, 100.0)

    def at(x: float, y: float) -> tuple[float, float]:
        wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + wide * (x - low) / (high - low), TOP + tall * (1 - y / most)

    label = f"{found.objective} over the float graph's" if measured else "multiply-adds in INT8, %"
    heading = f"{found.graph} for {found.target}: {found.answer}, top-1 drop at most {found.max_drop_pp:g} pp"
    budget = at(low, found.max_drop_pp)[1]
    parts = [
        _text(LEFT, 24, heading, 'font-size="15"'),
        _text(LEFT, 44, "expected 95 % bound of the drop, pp"),
        _text(WIDTH - RIGHT, HEIGHT - 12, label, 'text-anchor="end"'),
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>',
        f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
        f'<line class="budget" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{budget:.1f}" y2="{budget:.1f}"/>',
    ]
    for k in range(5):
        x, y = low + k * (high - low) / 4, k * most / 4
        parts.append(_text(at(x, 0)[0], HEIGHT - BOTTOM + 18, f"{x:.3g}", 'text-anchor="middle"'))
        parts.append(_text(LEFT - 8, at(0, y)[1] + 4, f"{y:.2g}", 'text-anchor="end"'))
    for point in points:
        parts += _dot(found, point, *at(_place(found, point) or 0.0, point.expected_bound_pp))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f"<style>{STYLE}</style>" + "\n".join(parts) + "</svg>\n"
    )


def _place(found: Search, point: SearchPoint) -> float | None:
    if found.objective == "coverage":
        return point.int8_share_pct
    return 1.0 if point.all_float and not point.route else point.ratio


def _dot(found: Search, point: SearchPoint, x: float, y: float) -> Iterator[str]:
    asked, answer = point.test_n is not None, found.answer != "none" and point.candidate == found.candidate
    fill, ring = "#2f78a8" if asked else "none", ' stroke-width="3"' if answer else ""
    kept = "all" if point.all_float else ", ".join(point.kept) or "none"
    kept += f" by {point.route}" if point.route else ""
    tip = f"in float: {kept}; drop {point.top1_drop_pp:.2f} pp, {point.int8_share_pct:.1f} % in INT8"
    yield (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}" stroke="{"#d98200" if answer else "#2f78a8"}"{ring}>'
        f"<title>{inert_html(inert(tip))}</title></circle>"
    )


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{inert_html(inert(text))}</text>'
