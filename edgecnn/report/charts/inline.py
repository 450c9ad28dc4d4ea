"""Charts that stand inside a page: its style sheet colors them, light and dark, and their text is read at any width.

A class of the style sheet (`fp32`, `fp16`, `int8`, `other`) names the precision of what is drawn. Lengths are pixels of
the view box. What lies in the row of a table has no text: the row's cells say it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecnn.report.charts.discs import CHARACTER, Box, Spot, linear_ticks, log_ticks, place_labels
from edgecnn.report.page.elements import Html, element, join

KINDS = ("fp32", "fp16", "int8")
LARGEST = 1e12  # a value beyond it stands at the end of its axis
LABELLED = 10  # more points than these are numbered: their names would hide each other


def kind_of(precision: str) -> str:
    """The style sheet's class for a precision."""
    return precision if precision in KINDS else "other"


@dataclass(frozen=True)
class Scale:
    """What an axis shows, from its left end to its right one."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], margin: float = 0.06) -> Scale:
        """One that holds all values, with a margin on both sides, but for one below 0 that no value needs."""
        low, high = (min(max(v, -LARGEST), LARGEST) for v in (min(values), max(values)))
        room = margin * (high - low) or max(abs(high), 1.0) * margin
        return cls(max(low - room, 0.0) if low >= 0 else low - room, high + room)

    def at(self, value: float, length: float = 100.0) -> float:
        """Where a value stands on an axis of that length; what lies outside stands at the end."""
        return length * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Whisker:
    """A value with its interval; `limit` is where it would begin to fail."""

    low: float
    value: float
    high: float
    kind: str
    limit: float | None = None


def whisker_mark(whisker: Whisker, scale: Scale, line: float | None = None) -> Html:
    """One row's interval on the scale of all rows, beside a line."""
    low, value, high = (scale.at(v) for v in (whisker.low, whisker.value, whisker.high))
    lines = [_line("grid", scale.at(line), 0, scale.at(line), 20)] if line is not None else []
    lines.append(_line(whisker.kind, low, 10, max(high, low + 0.4), 10, 2))
    lines.append(_line(whisker.kind, value, 3, value, 17, 5))
    if whisker.limit is not None:
        lines.append(_line("limit", scale.at(whisker.limit), 0, scale.at(whisker.limit), 20, 1.5))
    return _row(join(lines))


def share_mark(shares: Sequence[tuple[str, float]]) -> Html:
    """A bar of 100 %, cut into the shares of each kind."""
    parts, left = [_rect("back", 0, 3, 100, 14)], 0.0
    for kind, pct in shares:
        parts.append(_rect(kind, left, 3, min(pct, 100 - left), 14))
        left += pct
    return _row(join(parts))


def _row(content: Html) -> Html:
    return element("svg", content, viewBox="0 0 100 20", preserveAspectRatio="none", aria_hidden="true")


@dataclass(frozen=True)
class Histogram:
    """`counts` of what lies between each two `edges`; `marks` are values with a name (p50, p99)."""

    edges: Sequence[float]
    counts: Sequence[int]
    marks: Sequence[tuple[str, float]]
    kind: str
    unit: str = "ms"


def histogram(content: Histogram, width: float = 320, height: float = 150) -> Html:
    """Bars whose height is the number in each bin, and the marks that lie among them."""
    scale = Scale.around(content.edges, 0.02)
    marks = [(name, value) for name, value in content.marks if scale.low <= value <= scale.high]
    top, bottom = 34.0, height - 24
    parts, most = [_line("axis", 0, bottom, width, bottom)], max(content.counts, default=0) or 1
    for low, high, count in zip(content.edges, content.edges[1:], content.counts, strict=False):
        left, tall = scale.at(low, width), (bottom - top) * count / most
        if count:
            bar = max(scale.at(high, width) - left - 0.5, 0.8)
            parts.append(_rect(content.kind, left, bottom - max(tall, 0.8), bar, max(tall, 0.8)))
    for tick in _few(linear_ticks(scale.low, scale.high), 4):
        x = scale.at(tick, width)
        parts.append(_line("axis", x, bottom, x, bottom + 4))
        parts.append(_words(min(max(x, 12), width - 14), height - 6, f"{tick:g}", "soft", "middle"))
    taken = [-1e9, -1e9, -1e9]  # how far each line of names is written
    for name, value in marks:
        x = scale.at(value, width)
        line = next((k for k, end in enumerate(taken) if x > end), None)
        parts.append(_line("mark", x, top, x, bottom))
        if line is not None:
            parts.append(_words(min(x + 3, width - 24), 10 + 11 * line, name, "soft halo"))
            taken[line] = x + 26
    said = ", ".join(f"{name} {value:.4g} {content.unit}" for name, value in content.marks)
    return _drawing(width, height, said, join(parts))


@dataclass(frozen=True)
class Point:
    """One engine: its cost, its accuracy with an interval, and what it belongs to; a run's points are joined."""

    label: str
    cost: float
    accuracy_pct: float
    interval: tuple[float, float]
    kind: str
    run: str = ""


def scatter(
    points: Sequence[Point], width: float, height: float = 320, tick: Callable[[float], str] = "{:g}".format
) -> Html:
    """Accuracy with its interval against cost on a logarithmic axis."""
    frame = Box(40, 22, width - 10, height - 38)
    accuracies = Scale.around([v for p in points for v in p.interval])
    logs = _logarithms([p.cost for p in points])

    def x(cost: float) -> float:
        return frame.left + logs.at(math.log(cost), frame.right - frame.left)

    def y(accuracy: float) -> float:
        return frame.bottom - accuracies.at(accuracy, frame.bottom - frame.top)

    parts = []
    for cost in _few(log_ticks(math.exp(logs.low), math.exp(logs.high)), 5 if width < 500 else 9):
        parts.append(_line("grid", x(cost), frame.top, x(cost), frame.bottom))
        parts.append(_words(x(cost), frame.bottom + 15, tick(cost), "soft", "middle"))
    for accuracy in _few(linear_ticks(accuracies.low, accuracies.high), 7):
        parts.append(_line("grid", frame.left, y(accuracy), frame.right, y(accuracy)))
        parts.append(_words(frame.left - 5, y(accuracy) + 4, f"{accuracy:g}", "soft", "end"))
    parts.append(_words((frame.left + frame.right) / 2, height - 6, "p50, ms", "soft", "middle"))
    parts.append(_words(4, 12, "top-1, %", "soft"))
    spots = [Spot(x(p.cost), y(p.accuracy_pct), 4.5) for p in points]
    for point, spot in zip(points, spots, strict=True):
        low, high = (y(v) for v in point.interval)
        tip = element("title", f"{point.label}: top-1 {point.accuracy_pct:.2f} %, p50 {point.cost:.4g} ms")
        whisker = _line(point.kind, spot.x, low, spot.x, high, 1)
        parts.append(element("g", tip, whisker, element("circle", class_=point.kind, cx=spot.x, cy=spot.y, r=4.5)))
    names = [p.label if len(points) <= LABELLED else str(k) for k, p in enumerate(points, 1)]
    boxes = place_labels([CHARACTER * len(name) for name in names], spots, frame)
    parts += [_words(box.left, box.bottom - 3, name, "halo") for name, box in zip(names, boxes, strict=True)]
    return _drawing(width, height, f"accuracy against latency of {len(points)} engines", join(parts))


def _logarithms(costs: Sequence[float]) -> Scale:
    room = max(0.12 * math.log(max(costs) / min(costs)), 0.06)
    return Scale(math.log(min(costs)) - room, math.log(max(costs)) + room)


def _few(ticks: Sequence[float], most: int) -> Sequence[float]:
    """Every second, third, ... tick, so that no more than `most` are left."""
    return ticks[:: -(-len(ticks) // most)] if ticks else ticks


def _drawing(width: float, height: float, said: str, content: Html) -> Html:
    box = f"0 0 {width:g} {height:g}"
    return element("svg", content, viewBox=box, width=width, height=height, role="img", aria_label=said)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float, wide: float | None = None) -> Html:
    return element(
        "line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2, stroke_width=wide, vector_effect="non-scaling-stroke"
    )


def _rect(kind: str, left: float, top: float, width: float, height: float) -> Html:
    return element("rect", class_=kind, x=left, y=top, width=width, height=height)


def _words(x: float, y: float, content: str, kind: str, anchor: str = "start") -> Html:
    return element("text", content, class_=kind, x=x, y=y, text_anchor=anchor)
