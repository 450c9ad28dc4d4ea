"""The complexity plot: what is drawn where, and that it can be read."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_json_artifact
from edgecnn.errors import EdgecnnError, MeasurementError
from edgecnn.records import to_plain
from edgecnn.report.charts.complexity import (
    depth_panel,
    memory_panel,
    run_panels,
    write_run_plot,
    write_zoo_plot,
    zoo_panel,
)
from edgecnn.report.charts.discs import Box, Disc, Panel, Spot, disc_plot, linear_ticks, log_ticks, place_labels
from edgecnn.results.device import Device
from edgecnn.results.report import Measurement, RunReport
from edgecnn.results.verdict import Verdict
from edgecnn.zoo import ModelCard, cards, find_model
from tests.fakes.measurements import accuracy, latency, measurement

SVG = "{http://www.w3.org/2000/svg}"


def imagenet() -> list[ModelCard]:
    return [c for c in cards().values() if c.classes == 1000 and c.top1_pct is not None]


def discs_of(svg: str) -> dict[str, tuple[float, float, float]]:
    """Title -> (x, y, radius) of each drawn network."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        title, circle = group.find(f"{SVG}title"), group.find(f"{SVG}circle")
        if title is not None and circle is not None:
            found[str(title.text)] = (float(circle.get("cx", 0)), float(circle.get("cy", 0)), float(circle.get("r", 0)))
    return found


def one_panel(*discs: Disc) -> Panel:
    return Panel("t", ("n",), "x", "y", discs, {"a": "#123456"}, lambda v: f"{v:g}")


def test_position_says_cost_and_accuracy_and_area_says_parameters() -> None:
    panel = one_panel(
        Disc("a", 1e6, 60, 4_000_000, "a"),
        Disc("b", 1e7, 70, 1_000_000, "a"),
        Disc("c", 1e8, 80, 16_000_000, "a"),
    )
    (ax, ay, ar), (bx, by, br), (cx, cy, cr) = (discs_of(disc_plot([panel]))[name] for name in "abc")
    assert bx - ax == pytest.approx(cx - bx, abs=0.2), "decades are equally wide"
    assert ay - by == pytest.approx(by - cy, abs=0.2)
    assert ay > by > cy
    assert (cr / ar) ** 2 == pytest.approx(4, rel=0.02)
    assert (ar / br) ** 2 == pytest.approx(4, rel=0.02)


def test_the_zoo_is_drawn_once_each_inside_the_axes_and_the_rest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.svg"
    left_out = write_zoo_plot(path, cards().values())
    drawn = discs_of(path.read_text(encoding="utf-8"))
    names = {title.split(":")[0] for title in drawn}
    assert names == {c.name for c in imagenet()}
    assert names | set(left_out) == set(cards())
    assert not names & set(left_out)
    assert len(names) > 8
    for x, y, radius in drawn.values():
        assert x - radius >= 74
        assert x <= 1280 - 150
        assert 66 <= y <= 860 - 62
    assert "resnet50: 80.858 % top-1, 4.09 G multiply-adds, 25.6 M parameters, 2015" in drawn


def test_an_accuracy_that_no_published_weights_back_is_marked() -> None:
    svg = disc_plot([zoo_panel([find_model("resnet50"), find_model("fractalnet34")])])
    dashed = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        title, circle = group.find(f"{SVG}title"), group.find(f"{SVG}circle")
        if title is not None and circle is not None:
            dashed[str(title.text).split(":")[0]] = circle.get("stroke-dasharray") is not None
    assert dashed == {"resnet50": False, "fractalnet34": True}
    assert "ten crops" in svg
    assert "from the paper" in svg
    assert "from the paper" not in disc_plot([zoo_panel([find_model("resnet50")])])


@pytest.mark.parametrize("panel", [zoo_panel, memory_panel, depth_panel])
def test_labels_of_the_zoo_can_be_read(panel: Callable[[list[ModelCard]], Panel]) -> None:
    """No two labels cover each other by more than a tenth of one, and none covers the centre of a small disc."""
    svg = ET.fromstring(disc_plot([panel(imagenet())]))
    labels = [t for t in svg.iter(f"{SVG}text") if t.get("class") == "label"]
    assert {t.text for t in labels} == {c.name for c in imagenet()}
    boxes = []
    for text in labels:
        x, y = float(text.get("x", 0)), float(text.get("y", 0))
        boxes.append(Box(x, y - 10, x + 6.2 * len(text.text or ""), y + 2))
    for k, box in enumerate(boxes):
        for other in boxes[:k]:
            smaller = min((b.right - b.left) * (b.bottom - b.top) for b in (box, other))
            assert box.overlap(other) < 0.1 * smaller


def test_memory_and_years() -> None:
    """VGG-16: 138 357 544 parameters, and twice 64 maps of 224 x 224 alive at once."""
    (vgg,) = memory_panel([find_model("vgg16")]).discs
    assert vgg.x == pytest.approx(4 * (138_357_544 + 2 * 64 * 224 * 224) / 2**20)
    depths = depth_panel([find_model(name) for name in ("alexnet", "vgg16", "resnet152")])
    assert [(d.x, d.y, d.group) for d in depths.discs] == [
        (2012, 8, "below 65 %"), (2014, 16, "70 to 75 %"), (2015, 152, "from 80 %"),
    ]  # fmt: skip
    drawn = {title.split(":")[0]: place for title, place in discs_of(disc_plot([depths])).items()}
    assert drawn["alexnet"][0] < drawn["vgg16"][0] < drawn["resnet152"][0]
    above = [drawn[a][1] - drawn[b][1] for a, b in (("alexnet", "vgg16"), ("vgg16", "resnet152"))]
    assert above[1] / above[0] == pytest.approx(math.log(152 / 16) / math.log(2), rel=0.02)


def test_a_label_moves_away_from_what_is_there() -> None:
    frame = Box(0, 0, 500, 500)
    alone = place_labels([60], [Spot(250, 250, 5)], frame)[0]
    assert alone.left > 255
    assert alone.top < 250 < alone.bottom, "beside the disc, to the right"
    at_edge = place_labels([60], [Spot(490, 250, 5)], frame)[0]
    assert at_edge.right <= 500
    crowd = [Spot(250 + 3 * k, 250 + 2 * k, 4) for k in range(6)]
    boxes = place_labels([60] * 6, crowd, frame)
    assert sum(a.overlap(b) for k, a in enumerate(boxes) for b in boxes[:k]) == 0
    assert boxes == place_labels([60] * 6, crowd, frame)


def test_hostile_names_stay_text() -> None:
    svg = disc_plot([one_panel(Disc("<b>&\"'", 1, 50, 10, "a", tip="</title><script>"))])
    assert [t.text for t in ET.fromstring(svg).iter(f"{SVG}text") if t.get("class") == "label"] == ["<b>&\"'"]
    assert "<script" not in svg


@pytest.mark.parametrize(("low", "high"), [(3e7, 3e10), (2.0, 30.0), (0.9, 1.3), (3.1, 3.6), (0.02, 0.05)])
def test_cost_ticks_are_round_and_enough(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 4 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    assert all(low <= t <= high and len(f"{t / 10 ** math.floor(math.log10(t)):.4g}") <= 4 for t in ticks)


@pytest.mark.parametrize(("low", "high"), [(48, 86), (69.0, 71.0), (0, 100.5), (99.2, 100.5)])
def test_accuracy_ticks_are_round_and_enough(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    assert 4 <= len(ticks) <= 11
    assert all(low <= t <= high for t in ticks)


# Runs


Made = tuple[RunReport, Sidecar]


def row(name: str = "fp32", top1_pct: float | None = 70.0, p50_ms: float | None = 2.0) -> Measurement:
    timed = None if p50_ms is None else latency(name, latency_ms_p50=p50_ms)
    return measurement(name, accuracy=accuracy(100, 0, 0, name=name, top1_pct=top1_pct), latency=timed)


def report(recipe: str = "r", device: str = "orin", data: str = "folder:x", **changes: Any) -> Made:
    """A report and what made it; `fields` are its recipe's."""
    fields = changes.pop("fields", {"model.name": "resnet18", "data.source": data})
    known: dict[str, Any] = {
        "recipe": recipe,
        "title": "",
        "target": "cpu",
        "device": Device(),
        "device_key": device,
        "reference": None,
        "measurements": (row(), row("int8", 69.0, 1.0)),
        "verdict": Verdict(()),
        "artifacts": (),
        "notes": (),
    }
    return RunReport(**{**known, **changes}), Sidecar(kind="report", recipe=recipe, fields=fields)


def write(folder: Path, made: Made) -> None:
    write_json_artifact(folder / "report.json", to_plain(made[0]), made[1])


def test_runs_are_drawn_at_their_measured_latency_one_panel_per_device(tmp_path: Path) -> None:
    for recipe, target, device in (("a", "orin", "orin_15w"), ("a", "cpu", "xeon"), ("b", "orin", "orin_15w")):
        folder = tmp_path / recipe / target
        folder.mkdir(parents=True)
        write(folder, report(recipe, device))
    write_run_plot(tmp_path / "f.svg", [tmp_path / "a", tmp_path / "b" / "orin"])
    svg = (tmp_path / "f.svg").read_text(encoding="utf-8")
    titles = [t.text for t in ET.fromstring(svg).iter(f"{SVG}text") if t.get("class") == "title"]
    assert sorted(map(str, titles)) == ["Accuracy against latency: orin_15w", "Accuracy against latency: xeon"]
    assert len(list(ET.fromstring(svg).iter(f"{SVG}polyline"))) == 3, "one path per run and device"
    panels = {p.title.rpartition(" ")[2]: p for p in run_panels([report("a", "orin"), report("b", "orin")])}
    assert [(d.label, d.x, d.y) for d in panels["orin"].discs] == [
        ("a fp32", 2.0, 70.0), ("a int8", 1.0, 69.0), ("b fp32", 2.0, 70.0), ("b int8", 1.0, 69.0),
    ]  # fmt: skip
    assert {d.params for d in panels["orin"].discs} == {find_model("resnet18").params}


def test_a_measurement_without_accuracy_or_latency_is_not_drawn(tmp_path: Path) -> None:
    rows = (row("fp32", None, 1.0), row("int8", 3.0, None))
    assert run_panels([report(measurements=rows)]) == []
    write(tmp_path, report(measurements=rows))
    with pytest.raises(MeasurementError, match="no report"):
        write_run_plot(tmp_path / "f.svg", [tmp_path])
    assert not (tmp_path / "f.svg").exists()


def test_what_belongs_to_the_numbers_stands_in_the_picture() -> None:
    note = "int8-tensorrt is simulated"
    (panel,) = run_panels([report("a", notes=(note,)), report("b", notes=(note,))])
    assert list(panel.notes[1:]) == [note]
    texts = [t.text for t in ET.fromstring(disc_plot([panel])).iter(f"{SVG}text") if t.get("class") == "note"]
    assert texts == list(panel.notes)


def test_top1_on_different_images_does_not_share_an_axis() -> None:
    with pytest.raises(MeasurementError, match=r"folder:x, folder:y"):
        run_panels([report(), report(data="folder:y")])


def test_latencies_of_different_modes_do_not_share_an_axis() -> None:
    timed = replace(row(), latency=latency("fp32", mode="pipelined"))
    with pytest.raises(MeasurementError, match=r"latencies of orin .* different modes: pipelined, single-shot"):
        run_panels([report(), report("b", measurements=(timed,))])
    assert len(run_panels([report(), report("b", "xeon", measurements=(timed,))])) == 2


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="SVG"):
        write_zoo_plot(tmp_path / "f.png", cards().values())
    with pytest.raises(MeasurementError, match="no network"):
        write_zoo_plot(tmp_path / "f.svg", [find_model("lenet5")])
    with pytest.raises(MeasurementError, match=r"no report\.json"):
        write_run_plot(tmp_path / "f.svg", [tmp_path])
    with pytest.raises(EdgecnnError, match="does not say its model"):
        run_panels([report(fields={"data.source": "x"})])
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(EdgecnnError, match="not valid JSON"):
        write_run_plot(tmp_path / "f.svg", [tmp_path])
