"""What each node costs in INT8, as bars: its share of the noise alone, and what leaving it out wins."""

from __future__ import annotations

from collections.abc import Iterator

from edgecnn.output import fit, inert, inert_html
from edgecnn.results.sensitivity import NodeSensitivity, Sensitivity

WIDTH, NAMES, BARS, GAP, TOP, LINE = 1000, 330, 300, 35, 70, 16  # pixels: of all, of names, of each half, of a row
COLORS = {"weights": "#2f78a8", "activation": "#d98200"}
STYLE = """
svg { background: #fff; color: #222; font: 12px system-ui, sans-serif }
text { fill: currentColor } .axis { stroke: #8888 }
@media (prefers-color-scheme: dark) { svg { background: #16181b; color: #ddd } }
"""


def sensitivity_svg(found: Sensitivity) -> str:
    """A bar for each row in each half, the costliest row first; values show on hovering."""
    height = TOP + LINE * len(found.rows) + 20
    heading = f"{found.graph}: INT8 by {found.method}, {found.n} images, {found.sqnr_db:.2f} dB in all"
    parts = [
        _text(10, 22, heading, 'font-size="15"'),
        *_legend(),
        _text(NAMES, TOP - 12, "share of the noise, each alone, %", 'font-weight="bold"'),
        _text(NAMES + BARS + GAP, TOP - 12, "SQNR won by leaving it out, dB", 'font-weight="bold"'),
    ]
    shares, gains = [row.noise_pct for row in found.rows], [row.gain_db for row in found.rows]
    low, high = min(0.0, *gains), max(0.0, *gains)
    for k, row in enumerate(found.rows):
        y = TOP + LINE * k
        parts.append(_text(NAMES - 8, y + 11, f"{fit(row.node, 44).rstrip()} {row.part[0]}", 'text-anchor="end"'))
        parts += _bar(NAMES, y, 0.0, row.noise_pct, 0.0, max(shares), row)
        parts += _bar(NAMES + BARS + GAP, y, 0.0, row.gain_db, low, high, row)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<style>{STYLE}</style>" + "\n".join(parts) + "</svg>\n"
    )


def _bar(left: int, y: int, start: float, end: float, low: float, high: float, row: NodeSensitivity) -> Iterator[str]:
    scale = BARS / ((high - low) or 1.0)
    first, last = sorted((left + scale * (start - low), left + scale * (end - low)))
    tip = (
        f"{row.node}, {row.part}: alone {row.alone_sqnr_db:.2f} dB, {row.noise_pct:.2f} % of the noise; without it "
        f"{row.gain_db:+.2f} dB"
    )
    yield (
        f'<rect x="{first:.1f}" y="{y + 2}" width="{max(last - first, 0.5):.1f}" height="{LINE - 4}" '
        f'fill="{COLORS[row.part]}"><title>{inert_html(inert(tip))}</title></rect>'
    )
    zero = left + scale * (0.0 - low)
    yield f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="{y}" y2="{y + LINE}"/>'


def _legend() -> Iterator[str]:
    for k, (part, color) in enumerate(COLORS.items()):
        yield f'<rect x="{10 + 100 * k}" y="{TOP - 22}" width="10" height="10" fill="{color}"/>'
        yield _text(26 + 100 * k, TOP - 12, part)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{inert_html(inert(text))}</text>'
