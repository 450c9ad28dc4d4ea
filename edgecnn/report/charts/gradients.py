"""Gradient norms as SVG: a panel for each run, a line for each epoch over the layers, all panels on one scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgecnn.output import inert
from edgecnn.report.gradients import chosen_epochs
from edgecnn.report.page.elements import Html, element
from edgecnn.results.gradients import GradientNorms

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 340, 70, 120, 40, 70  # of a panel, and its margins, pixels
LINES = 8  # epochs drawn
NAMED = 24  # layers with a name
STYLE = """
svg { background: #fff; color: #222; font: 12px system-ui, sans-serif } text { fill: currentColor }
.grid { stroke: #8884 }
@media (prefers-color-scheme: dark) { svg { background: #16181b; color: #ddd } }
"""


def gradients_svg(runs: Sequence[GradientNorms]) -> str:
    """A picture that stands alone."""
    return f"{gradients_drawing(runs, element('style', Html(STYLE)))}\n"


def gradients_drawing(runs: Sequence[GradientNorms], style: Html | None = None) -> Html:
    """The picture for a page that styles it; a norm of 0 has no point on the logarithmic axis."""
    positive = [v for found in runs for row in found.norms for v in row if v > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    height = HEIGHT * len(runs)
    panels = [
        element("g", *_panel(found, low, high), transform=f"translate(0 {k * HEIGHT})") for k, found in enumerate(runs)
    ]
    return element(
        "svg",
        style or Html(),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
        role="img",
        aria_label=f"gradient norms of {len(runs)} trainings",
    )


def _panel(found: GradientNorms, low: int, high: int) -> Iterator[Html]:
    step = (WIDTH - LEFT - RIGHT) / max(len(found.layers) - 1, 1)
    bottom = HEIGHT - BOTTOM

    def y(norm: float) -> float:
        return bottom - (bottom - TOP) * (math.log10(norm) - low) / (high - low)

    yield _words(LEFT, 22, f"{found.recipe} ({found.model}): gradient norm by layer", font_weight="bold")
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        yield element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at)
        yield _words(LEFT - 6, at + 4, f"{10.0**decade:g}", text_anchor="end")
    every = -(-len(found.layers) // NAMED)
    for k in range(0, len(found.layers), every):
        x = LEFT + k * step
        turned = f"translate({x:.1f} {bottom + 10}) rotate(40)"
        yield element("text", inert(found.layers[k]), font_size="9", transform=turned)
    shown = chosen_epochs(found, LINES)
    for k, at in enumerate(shown):
        color = f"hsl({220 - 210 * k // max(len(shown) - 1, 1)} 70% 50%)"
        points = [(LEFT + j * step, y(v), v, found.layers[j]) for j, v in enumerate(found.norms[at]) if v > 0]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in points)
        yield element("polyline", points=path, fill="none", stroke=color, stroke_width=1.5)
        for px, py, value, layer in points:
            tip = element("title", inert(f"{layer}, epoch {found.epochs[at]}: {value:.3g}"))
            yield element("circle", tip, cx=px, cy=py, r=2.5, fill=color)
        yield element("rect", x=WIDTH - RIGHT + 16, y=TOP + 16 * k, width=10, height=10, fill=color)
        yield _words(WIDTH - RIGHT + 32, TOP + 9 + 16 * k, f"epoch {found.epochs[at]}")


def _words(x: float, y: float, content: str, **attributes: str) -> Html:
    return element("text", inert(content), x=x, y=y, **attributes)
