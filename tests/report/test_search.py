"""The page and the dots of a search: within 80 columns, and no name acts on a terminal or a page."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from lxml import etree

from edgecnn.output import width_of
from edgecnn.report.charts.search import search_svg
from edgecnn.report.search import build_command, recipe_line, search_page
from edgecnn.results.search import Search, SearchPoint

HOSTILE = "名" * 40 + '</text>"\x1b[2J'
WHOLE = SearchPoint(
    kept=(), all_float=False, int8_share_pct=100.0, n=4096, top1_drop_pp=12.5, top1_drop_ci_pp=(-11.25, 13.75),
    expected_bound_pp=13.1, latency_ratio=0.4421, latency_ratio_ci=(0.44, 0.445), latency_ms_p50=0.354,
)  # fmt: skip
POINT = replace(
    WHOLE, kept=("a", HOSTILE), int8_share_pct=81.25, top1_drop_pp=0.07, expected_bound_pp=0.22, test_n=10000,
    test_top1_drop_pp=0.0, test_top1_drop_ci_pp=(-0.14, 0.14),
)  # fmt: skip
FLOAT = replace(
    WHOLE, kept=("a", "b", HOSTILE), all_float=True, int8_share_pct=0.0, latency_ratio=None, latency_ratio_ci=None
)
FOUND = Search(
    graph="g\n.onnx", graph_sha256="", target="cpu", scheme="ort-cpu", method="auto", around="fp32",
    objective="latency", max_drop_pp=0.5, data="imgs " * 30, calibration_n=512, held_out_n=4096, n=10000, answer="int8",
    output="s.onnx", kept=POINT.kept, int8_share_pct=81.25, top1_drop_pp=0.0, top1_drop_ci_pp=(-0.14, 0.14),
    latency_ratio=0.4421, latency_ratio_ci=(0.44, 0.445), latency_ms_p50=0.354, latency_batch=1, latency_threads=2,
    points=(WHOLE, POINT, FLOAT), failed=("all INT8: refused " * 9,),
)  # fmt: skip


def test_the_page() -> None:
    lines = search_page(FOUND).split("\n")
    assert max(map(width_of, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    assert "  s.onnx: INT8 (81.2 % of the multiply-adds) but for 2 nodes in FP32" in lines
    (starred,) = (line for line in lines if line.startswith("* 2"))
    assert starred.split()[-6:] == ["81.2", "+0.07", "[-11.25,", "+13.75]", "0.22", "0.14"]
    assert any(line.startswith("could not be made: all INT8: refused") for line in lines)
    assert recipe_line(FOUND).startswith('[quantize] exclude = ["a", "名')
    nothing = replace(FOUND, answer="none", kept=(), top1_drop_ci_pp=None, latency_ratio=None)
    assert "  nothing meets it, not even FP32 all over" in search_page(nothing).split("\n")
    assert not any(line.startswith("* ") for line in search_page(nothing).split("\n"))
    assert recipe_line(nothing) == ""
    plain = replace(FOUND, answer="float", kept=FLOAT.kept, output="g.onnx", objective="coverage", latency_ratio=None)
    assert any(line.startswith("  all FP32: no graph with INT8") for line in search_page(plain).split("\n"))
    assert recipe_line(plain) == ""


def test_the_command_of_a_build_route_can_be_copied() -> None:
    route = "-conv_lowering=off -kgen:tiling=2 -cask_fusion:num_tactics=20 -peep:max=3"
    found = replace(FOUND, target="gpu", around="fp16", output="it's one.onnx", latency_batch=4, build_route=route)
    (line,) = (line for line in search_page(found).split("\n") if "edgecnn build" in line)
    words = ["edgecnn", "build", "it's one.onnx", "--target", "gpu", "--profile", "4:4:8", f"--build-route={route}"]
    assert shlex.split(line) == words
    frozen = build_command(replace(found, batch_is_frozen=True))  # its build takes no other sizes
    assert shlex.split(frozen) == [*words[:5], *words[7:]]
    assert recipe_line(found).endswith(f'; [build.routes] int8 = "{route}"')
    plain = replace(found, answer="float", around="fp32")  # of a target with routes the float graph is FP16
    assert recipe_line(plain) == f'[build.routes] fp16 = "{route}"'


def test_energies_on_the_page_and_as_dots() -> None:
    none: dict[str, Any] = {"latency_ratio": None, "latency_ratio_ci": None, "latency_ms_p50": None}
    own: dict[str, Any] = {"energy_ratio": 0.613, "energy_ratio_ci": (0.601, 0.625), "joules_per_inference": 0.01234}
    points = tuple(replace(point, **none, **own) for point in (WHOLE, POINT)) + (FLOAT,)
    found = replace(FOUND, objective="energy", points=points, power_sensor="VDD_IN by INA\x1b[2J", **none, **own)
    lines = search_page(found).split("\n")
    assert max(map(width_of, lines)) <= 80
    assert "\x1b" not in "".join(lines)
    said = " ".join(" ".join(lines).split())
    assert "0.01234 J per inference above idle at batch 1, 0.613 x the float graph, 95 % interval [0.601, 0.6" in said
    assert "a meter at the wall reads more" in said
    assert said.count("0.613 x [0.601, 0.625], 0.01234 J") == 2
    svg = search_svg(found)
    assert "energy over the float graph" in svg
    assert len(etree.fromstring(svg.encode()).xpath("//*[local-name()='circle']")) == 3


def test_the_dots() -> None:
    svg = search_svg(FOUND)
    root = etree.fromstring(svg.encode())
    space = {"s": "http://www.w3.org/2000/svg"}
    dots = root.xpath("//s:circle", namespaces=space)
    assert len(dots) == 3
    whole, point, plain = dots
    assert (
        float(whole.get("cx")) == float(point.get("cx")) < float(plain.get("cx"))
    )  # the float graph takes 1 of itself
    assert float(point.get("cy")) > float(whole.get("cy"))
    (budget,) = root.xpath("//s:line[@class='budget']", namespaces=space)
    assert float(whole.get("cy")) < float(budget.get("y1")) < float(point.get("cy"))
    assert [dot.get("fill") == "none" for dot in dots] == [True, False, True]
    assert point.get("stroke-width") == "3"
    covered = etree.fromstring(search_svg(replace(FOUND, objective="coverage")).encode())
    across = [float(dot.get("cx")) for dot in covered.xpath("//s:circle", namespaces=space)]
    assert across[0] > across[1] > across[2]
    assert "\x1b" not in svg
