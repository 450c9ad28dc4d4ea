"""A transfer table drawn: top-1 of each row with its 95 % interval, of the runs also that of INT8."""

from __future__ import annotations

from collections.abc import Iterator

from edgecnn.output import inert, inert_html
from edgecnn.report.charts.discs import count_text
from edgecnn.results.transfer import PROBE, TransferRow, TransferTable

WIDTH, LEFT, RIGHT, TOP, BOTTOM, ROW = 760, 190, 90, 64, 44, 24  # pixels
TICKS = 5
STYLE = """
svg { background: #fff; color: #222; font: 12px system-ui, sans-serif }
text { fill: currentColor } .axis { stroke: #8888 } .run { stroke: #2f78a8; fill: #2f78a8 }
.probe { stroke: #8a8f94; fill: #8a8f94 } .int8 { fill: none; stroke: #1f8a3b; stroke-width: 2 }
@media (prefers-color-scheme: dark) { svg { background: #16181b; color: #ddd } }
"""


def transfer_svg(found: TransferTable) -> str:
    """A line for each row, a dot at its top-1, a ring at that of INT8 as TensorRT rounds it; parameters that learn to
    the right."""
    low = max(0.0, min(row.top1_ci_pct[0] for row in found.rows) - 2)
    high = min(100.0, max(row.top1_ci_pct[1] for row in found.rows) + 2)
    models = list(dict.fromkeys(row.model for row in found.rows))
    bottom = TOP + ROW * (len(found.rows) + len(models))

    def across(top1_pct: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (top1_pct - low) / (high - low)

    parts = [
        _text(12, 24, f"{found.data}: {found.n_train} training images, {found.n} test images", 'font-size="15"'),
        _text(12, 46, "top-1 %, 95 % interval; dot: float32, ring: INT8; gray: linear classifier on a stage"),
        _text(WIDTH - 12, 46, "parameters that learn", 'text-anchor="end"'),
    ]
    for k in range(TICKS):
        value = low + k * (high - low) / (TICKS - 1)
        x = across(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 18, f"{value:.0f}", 'text-anchor="middle"'))
    y = TOP + ROW / 2
    for model in models:
        parts.append(_text(12, y + 4, model, 'font-weight="bold"'))
        for row in (row for row in found.rows if row.model == model):
            y += ROW
            parts += _line(row, y, *(across(x) for x in (row.top1_pct, *row.top1_ci_pct)))
            parts += [
                f'<circle class="int8" cx="{across(one.top1_pct):.1f}" cy="{y:.1f}" r="7"/>'
                for one in row.int8
                if one.scheme == "tensorrt"
            ]
        y += ROW
    height = bottom + BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<style>{STYLE}</style>" + "\n".join(parts) + "</svg>\n"
    )


def _line(row: TransferRow, y: float, x: float, left: float, right: float) -> Iterator[str]:
    probe = row.trains == PROBE
    kind, name = ("probe", f"linear on {row.stage}") if probe else ("run", row.trains)
    tip = f"{row.name}: {row.top1_pct:.2f} % [{row.top1_ci_pct[0]:.2f}, {row.top1_ci_pct[1]:.2f}], n = {row.n}"
    if row.failed:
        tip += f"; failed: {row.failed}"
    yield _text(24, y + 4, name)
    yield f'<line class="{kind}" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    yield (f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{inert_html(inert(tip))}</title></circle>')
    yield _text(WIDTH - 12, y + 4, count_text(row.params_trained), 'text-anchor="end"')


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{inert_html(inert(text))}</text>'
