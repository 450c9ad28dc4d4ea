"""The table and the bars of a sensitivity: within 80 columns, and no name acts on a terminal or a page."""

from __future__ import annotations

from dataclasses import replace

from lxml import etree

from edgecnn.output import width_of
from edgecnn.report.charts.sensitivity import sensitivity_svg
from edgecnn.report.sensitivity import sensitivity_table
from edgecnn.results.sensitivity import NodeSensitivity, Sensitivity

ROW = NodeSensitivity(
    node="layer1.0.conv1", part="weights", operator="Conv", layer="layer1.0.conv1", cost_rank=1, gain_rank=2,
    noise_pct=60.0, alone_sqnr_db=31.5, alone_kl_nats=0.0012, alone_agreement_pct=100.0, gain_db=-0.25,
    without_sqnr_db=28.0, without_kl_nats=2e-9, without_agreement_pct=96.88,
)  # fmt: skip
HOSTILE = replace(
    ROW, node="名" * 40 + '</text>"\x1b[2J', layer="b\u202e", part="activation", cost_rank=2, noise_pct=0.0,
    gain_db=300.0, alone_sqnr_db=300.0, alone_kl_nats=123456.0,
)  # fmt: skip
FOUND = Sensitivity(
    graph="g\n.onnx", graph_sha256="", data="imgs " * 30, n=32, scheme="tensorrt", method="mse", nodes=(),
    sqnr_db=28.25, kl_nats=0.004, agreement_pct=96.9, predicted_sqnr_db=28.9, rows=(ROW, HOSTILE),
)  # fmt: skip


def test_the_table() -> None:
    lines = sensitivity_table(FOUND).split("\n")
    assert max(map(width_of, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    (row,) = (line for line in lines if "layer1.0.conv1" in line)  # the layer is the node's name: told once
    assert row.split() == ["1", "2", "layer1.0.conv1", "W", "31.50", "1.2", "100.0", "-0.25", "2.0e-06", "96.9"]
    assert any(line.strip() == "b\\u202e" for line in lines)
    assert "  the sum of all nodes' noise alone: 28.90 dB" in lines
    assert not any(
        "sum of all" in line for line in sensitivity_table(replace(FOUND, predicted_sqnr_db=None)).split("\n")
    )


def test_the_bars() -> None:
    svg = sensitivity_svg(FOUND)
    root = etree.fromstring(svg.encode())
    space = {"s": "http://www.w3.org/2000/svg"}
    bars = root.xpath("//s:rect[s:title]", namespaces=space)
    assert len(bars) == 4
    assert float(bars[0].get("width")) == 300  # all of its half: no row has a larger share
    tips = [bar.findtext("s:title", namespaces=space) for bar in bars]
    assert tips[0] == "layer1.0.conv1, weights: alone 31.50 dB, 60.00 % of the noise; without it -0.25 dB"
    first, second = (float(bar.get("x")) + float(bar.get("width")) for bar in (bars[1], bars[3]))
    assert first < second
    assert "\x1b" not in svg
    assert "\u202e" not in svg
