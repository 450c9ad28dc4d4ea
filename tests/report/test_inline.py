"""Charts inside a page: where they put things."""

from __future__ import annotations

import pytest
from lxml import etree

from edgecnn.report.charts.inline import Histogram, Point, Scale, Whisker, histogram, scatter, share_mark, whisker_mark


def test_an_interval_stands_where_the_scale_says() -> None:
    scale = Scale(-1.0, 3.0)
    grid, whisker, value, limit = etree.fromstring(whisker_mark(Whisker(0.0, 1.0, 2.0, "int8", 2.5), scale, 0.0))
    assert (whisker.get("x1"), whisker.get("x2"), whisker.get("class")) == ("25", "75", "int8")
    assert (grid.get("x1"), value.get("x1"), limit.get("x1")) == ("25", "50", "87.5")
    assert Scale.around([0.5, 1.0]).low > 0
    assert Scale.around([0.0, 1.0]).low == 0
    _, *bars = etree.fromstring(share_mark([("int8", 75.0), ("fp16", 25.0)]))
    assert [(b.get("class"), b.get("x"), b.get("width")) for b in bars] == [("int8", "0", "75"), ("fp16", "75", "25")]


def test_a_histogram_has_a_bar_for_each_bin_that_holds_something() -> None:
    drawn = etree.fromstring(histogram(Histogram([1, 2, 3, 4], [4, 0, 2], [("p50", 1.5), ("p99", 9.0)], "fp16")))
    bars = drawn.findall("rect")
    heights = [float(b.get("height")) for b in bars]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    assert [line.get("class") for line in drawn.findall("line")].count("mark") == 1, "p99 lies outside"


def test_points_stand_by_the_logarithm_of_their_cost() -> None:
    points = [Point(f"n{c}", c, a, (a - 1, a + 1), "int8") for c, a in ((1.0, 70.0), (10.0, 75.0), (100.0, 80.0))]
    circles = etree.fromstring(scatter(points, 700)).findall(".//circle")
    (ax, ay), (bx, by), (cx, cy) = [(float(c.get("cx")), float(c.get("cy"))) for c in circles]
    assert bx - ax == pytest.approx(cx - bx, abs=0.2)
    assert ay - by == pytest.approx(by - cy, abs=0.2)
    assert ay > by
    assert etree.fromstring(scatter(points[:1], 350)).find(".//circle") is not None
