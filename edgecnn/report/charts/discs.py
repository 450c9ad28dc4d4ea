"""A plot of discs as SVG: accuracy against cost, say, each axis linear or logarithmic, and the area of a disc its
number of parameters.

Written directly, without a plotting library: an axis, discs, labels that avoid each other, two legends. Lengths are in
pixels of the SVG's own view box; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgecnn.output import inert_html

WIDTH, PANEL_HEIGHT = 1280, 860
LEFT, RIGHT, TOP, BOTTOM = 74, 150, 52, 62  # around the axes, above them without the notes
LINE = 15  # from one note to the next
LARGEST_RADIUS, SMALLEST_RADIUS = 40.0, 2.5
FONT, CHARACTER = 11, 6.7  # label size and the mean width of one of its characters
GAP = 3.0  # between a disc and its label
STYLE = """
text { font-family: "DejaVu Sans", Verdana, Arial, sans-serif; fill: #222 }
.title { font-size: 17px; font-weight: bold } .note { font-size: 11px; fill: #666 } .axis { font-size: 13px }
.label { font-size: 11px; stroke: #fff; stroke-width: 2.5px; stroke-opacity: .75; paint-order: stroke }
.tick { font-size: 12px; fill: #444 } .grid { stroke: #e6e6e6 } .frame { stroke: #888 }
.lead { stroke: #999; stroke-width: .7 } .path { stroke: #999; stroke-width: 1.2; stroke-dasharray: 4 3; fill: none }
"""


@dataclass(frozen=True)
class Disc:
    """One network, or one engine of it. `joined` discs of a panel are connected in order; a `quoted` one has a dashed
    outline; `tip` shows on hovering."""

    label: str
    x: float
    y: float
    params: int
    group: str
    tip: str = ""
    joined: str = ""
    quoted: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `x_tick` and `y_tick` write a value; `groups` maps each group to its colour, in the legend's
    order; `quoted` is what the legend calls a dashed outline."""

    title: str
    notes: tuple[str, ...]
    x_axis: str
    y_axis: str
    discs: tuple[Disc, ...]
    groups: dict[str, str]
    x_tick: Callable[[float], str]
    quoted: str = ""
    x_log: bool = True
    y_log: bool = False
    y_tick: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return width * height if width > 0 and height > 0 else 0.0


@dataclass(frozen=True)
class Spot:
    """Where a disc stands."""

    x: float
    y: float
    radius: float

    def covers(self, box: Box) -> float:
        """How far the disc reaches into a rectangle, as an area (of the bounding squares; 0 where they only touch)."""
        nearest_x = min(max(self.x, box.left), box.right)
        nearest_y = min(max(self.y, box.top), box.bottom)
        if math.hypot(nearest_x - self.x, nearest_y - self.y) >= self.radius:
            return 0.0
        square = Box(self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)
        return square.overlap(box)


def disc_plot(panels: Sequence[Panel]) -> str:
    """The SVG document: panels below each other, all with discs of one scale."""
    largest = max(d.params for p in panels for d in p.discs)
    height = PANEL_HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for index, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {index * PANEL_HEIGHT})">')
        parts += _panel(panel, largest)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, largest: int) -> Iterator[str]:
    across = _axis([d.x for d in panel.discs], panel.x_log)
    upward = _axis([d.y for d in panel.discs], panel.y_log)
    frame = Box(LEFT, TOP + LINE * len(panel.notes), WIDTH - RIGHT, PANEL_HEIGHT - BOTTOM)

    def x(value: float) -> float:
        return frame.left + across.share(value) * (frame.right - frame.left)

    def y(value: float) -> float:
        return frame.bottom - upward.share(value) * (frame.bottom - frame.top)

    yield _text("title", LEFT, 30, panel.title)
    for index, note in enumerate(panel.notes):
        yield _text("note", LEFT, 49 + LINE * index, note)
    for value in across.ticks:
        yield _line("grid", x(value), frame.top, x(value), frame.bottom)
        yield _text("tick", x(value), frame.bottom + 18, panel.x_tick(value), "middle")
    for value in upward.ticks:
        yield _line("grid", frame.left, y(value), frame.right, y(value))
        yield _text("tick", frame.left - 8, y(value) + 4, panel.y_tick(value), "end")
    yield _line("frame", frame.left, frame.bottom, frame.right, frame.bottom)
    yield _line("frame", frame.left, frame.top, frame.left, frame.bottom)
    yield _text("axis", (frame.left + frame.right) / 2, frame.bottom + 44, panel.x_axis, "middle")
    upright = _text("axis", 0, 0, panel.y_axis, "middle")
    yield f'<g transform="translate(22 {(frame.top + frame.bottom) / 2:.1f}) rotate(-90)">{upright}</g>'
    spots = [Spot(x(d.x), y(d.y), _radius(d.params, largest)) for d in panel.discs]
    yield from _paths(panel, spots)
    yield from _discs(panel, spots)
    yield from _labels(panel, spots, frame)
    yield from _legends(panel, largest, frame.top + 10)


def _radius(params: int, largest: int) -> float:
    """Area in proportion to the parameters, down to a disc that can still be seen."""
    return max(SMALLEST_RADIUS, LARGEST_RADIUS * math.sqrt(params / largest))


def _paths(panel: Panel, spots: Sequence[Spot]) -> Iterator[str]:
    joined: dict[str, list[Spot]] = {}
    for disc, spot in zip(panel.discs, spots, strict=True):
        if disc.joined:
            joined.setdefault(disc.joined, []).append(spot)
    for chain in joined.values():
        points = " ".join(f"{s.x:.1f},{s.y:.1f}" for s in chain)
        yield f'<polyline class="path" points="{points}"/>'


def _discs(panel: Panel, spots: Sequence[Spot]) -> Iterator[str]:
    """Large ones first, so that none hides a smaller one; a dot marks each centre, which is the value."""
    for disc, spot in sorted(zip(panel.discs, spots, strict=True), key=lambda pair: -pair[1].radius):
        colour = panel.groups[disc.group]
        dashes = ' stroke-dasharray="3 3"' if disc.quoted else ""
        yield (
            f'<g><title>{inert_html(disc.tip or disc.label)}</title><circle cx="{spot.x:.1f}" cy="{spot.y:.1f}" '
            f'r="{spot.radius:.1f}" fill="{colour}" fill-opacity=".42" stroke="{colour}"{dashes}/>'
            f'<circle cx="{spot.x:.1f}" cy="{spot.y:.1f}" r="1.4" fill="#222"/></g>'
        )


def _labels(panel: Panel, spots: Sequence[Spot], frame: Box) -> Iterator[str]:
    boxes = place_labels([len(d.label) * CHARACTER for d in panel.discs], spots, frame)
    for disc, spot, box in zip(panel.discs, spots, boxes, strict=True):
        nearest_x = min(max(spot.x, box.left), box.right)
        nearest_y = min(max(spot.y, box.top), box.bottom)
        if math.hypot(nearest_x - spot.x, nearest_y - spot.y) > spot.radius + 2 * GAP:
            yield _line("lead", spot.x, spot.y, nearest_x, nearest_y)
        yield _text("label", box.left, box.bottom - 3, disc.label)


def place_labels(widths: Sequence[float], spots: Sequence[Spot], frame: Box) -> list[Box]:
    """A box for the label of each disc, beside it where there is room, else further out (drawn with a leader).

    Greedy, the most crowded first, then rounds in which each label moves to the best place given all others, until
    none moves. A place costs what it covers of labels and discs, and its distance; the same input gives the same plot.
    """
    crowd = [sum(math.hypot(a.x - b.x, a.y - b.y) < 90 for b in spots) for a in spots]
    order = sorted(range(len(spots)), key=lambda k: (-crowd[k], spots[k].x, spots[k].y))
    choices = [
        [(box, _standing_cost(box, spots, frame) + 2.6 * distance) for box, distance in _candidates(spot, width)]
        for spot, width in zip(spots, widths, strict=True)
    ]
    placed: dict[int, Box] = {}
    for _ in range(8):
        before = dict(placed)
        for k in order:
            others = [box for j, box in placed.items() if j != k]
            placed[k] = min((c + 4 * sum(map(b.overlap, others)), i, b) for i, (b, c) in enumerate(choices[k]))[2]
        if placed == before:
            break
    return [placed[k] for k in range(len(spots))]


def _standing_cost(box: Box, spots: Sequence[Spot], frame: Box) -> float:
    """What a place costs whatever the other labels do: it covers discs (small ones and centres would vanish), or
    leaves the axes."""
    discs = sum(spot.covers(box) * (0.15 if spot.radius > 12 else 1.5) for spot in spots)
    centres = sum(Spot(spot.x, spot.y, 3).covers(box) for spot in spots)
    outside = (box.right - box.left) * (box.bottom - box.top) - frame.overlap(box)
    return discs + 8 * centres + 20 * outside


def _candidates(spot: Spot, width: float) -> Iterator[tuple[Box, float]]:
    """Boxes around a disc, nearest first, and how far each is; before them its inside, where a label may fit."""
    half = FONT / 2 + 1.5
    if width < 2.2 * spot.radius:
        for shift in (-12, 12):
            yield Box(spot.x - width / 2, spot.y - half + shift, spot.x + width / 2, spot.y + half + shift), 2.0
    for distance in (0, 6, 14, 24, 36, 50, 66, 84, 104):
        reach = spot.radius + GAP + distance
        for step in range(16):
            angle = step * math.pi / 8
            across, down = math.cos(angle), math.sin(angle)
            centre_x = spot.x + across * (reach + width / 2)
            centre_y = spot.y + down * (reach + half)
            yield (
                Box(centre_x - width / 2, centre_y - half, centre_x + width / 2, centre_y + half),
                distance + 1.5 * abs(down) + (1 if across < 0 else 0),
            )


def _legends(panel: Panel, largest: int, top: float) -> Iterator[str]:
    """To the right of the axes: colours, then sizes."""
    left = WIDTH - RIGHT + 26
    for name, colour in panel.groups.items():
        yield f'<circle cx="{left + 6}" cy="{top:.1f}" r="6" fill="{colour}" fill-opacity=".42" stroke="{colour}"/>'
        yield _text("tick", left + 20, top + 4, name)
        top += 20
    if any(d.quoted for d in panel.discs):
        dashed = 'fill="none" stroke="#555" stroke-dasharray="3 3"'
        yield f'<circle cx="{left + 6}" cy="{top:.1f}" r="6" {dashed}/>'
        yield _text("tick", left + 20, top + 4, panel.quoted)
        top += 20
    top += 26
    yield _text("tick", left, top, "parameters")
    for params in _round_sizes(largest):
        radius = _radius(params, largest)
        top += radius + 10
        yield f'<circle cx="{left + LARGEST_RADIUS:.1f}" cy="{top:.1f}" r="{radius:.1f}" fill="none" stroke="#555"/>'
        yield _text("tick", left + 2 * LARGEST_RADIUS - 4, top + radius + 4, count_text(params))
        top += radius


def count_text(number: float) -> str:
    """1.2 G, 350 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"


def _round_sizes(largest: int) -> list[int]:
    """Three round numbers of parameters that span what is drawn."""
    top = max(n for e in range(3, 10) for n in (10**e, 2 * 10**e, 5 * 10**e) if n <= max(largest, 1000))
    return [max(1, top // 50), top // 5, top]


@dataclass(frozen=True)
class _Axis:
    """The ends of an axis."""

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Where a value lies between the ends, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def _axis(values: Sequence[float], log: bool) -> _Axis:
    return _Axis(*(_log_range(values) if log else _linear_range(values)), log)


def _log_range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest with a margin for their discs."""
    low, high = min(values), max(values)
    margin = max(1.25, (high / low) ** 0.07)
    return low / margin, high * margin


def _linear_range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest with a margin of a tenth, of at least one; what is per cent ends at 100.5."""
    low, high = min(values), max(values)
    margin = max(1.0, 0.1 * (high - low))
    return low - margin, min(high + margin, 100.5) if high <= 100 else high + margin


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between the ends: 1, 2 and 5 of each decade; where that gives fewer than four, more of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [float(f"{d * 10**e:.6g}") for e in decades for d in digits if low <= d * 10**e <= high]
        if len(ticks) >= 4:
            return ticks
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten; about eight."""
    rough = (high - low) / 8
    power = 10 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    return [round(k * step, 6) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{inert_html(text)}</text>'
