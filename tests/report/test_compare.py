"""Runs side by side: paired on the same images, refused on others, simulated engines without a latency."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.artifact.run_folder import ResultFile, TargetRun
from edgecnn.data.pairs import all_pairs
from edgecnn.errors import MeasurementError
from edgecnn.measure.predict import Predictions
from edgecnn.measure.verification import measure_verification
from edgecnn.output import width_of
from edgecnn.report.compare import Column, compare, comparison_html, comparison_text
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.comparison import ComparedEngine
from edgecnn.results.device import Device
from edgecnn.results.latency import LatencyFile, LatencyRow
from edgecnn.results.verification import ChosenThreshold
from edgecnn.statistics import difference_interval, drop_interval
from tests.fakes.measurements import accuracy, engine, latency

N = 1000


def column(name: str, lost: int, device: str = "AMD", p50: float = 1.0, **more: Any) -> Column:
    """A run of which FP32 and a simulated INT8 engine were measured; `more` are values of both accuracies."""
    engines = {"fp32": engine("fp32"), "int8-tensorrt": engine("int8", scheme="tensorrt")}
    files = tuple(
        ResultFile(
            Path(f"{name}.accuracy.json"),
            AccuracyFile(accuracy=replace(accuracy(N, lost, 2, name=of), **more), engine=info),
            None,
        )
        for of, info in engines.items()
    )
    rows = tuple(LatencyRow(latency=latency(of, latency_ms_p50=p50), engine=info) for of, info in engines.items())
    timed = LatencyFile(device=Device(cpu=device, threads=1), reference=None, measurements=rows)
    return name, "r", TargetRun(Path(name), files, ResultFile(Path("latency.json"), timed, None)), "PASS"


def row(found: Any, number: int, name: str = "fp32") -> ComparedEngine:
    return next(r for r in found.engines if (r.number, r.name) == (number, name))


def test_each_engine_is_held_against_that_of_the_first_run_image_by_image() -> None:
    found = compare([column("a", 30), column("b", 50), column("c", 10)])
    assert [(r.name, r.number) for r in found.engines] == [(n, k) for n in ("fp32", "int8-tensorrt") for k in (1, 2, 3)]
    assert row(found, 1).drop_pp is None
    assert (row(found, 2).lost, row(found, 2).gained, row(found, 2).paired) == (20, 0, True)
    assert row(found, 2).drop_ci_pp == tuple(100 * e for e in drop_interval(20, 0, N))
    assert row(found, 3).drop_pp == pytest.approx(-2.0)
    text = comparison_text(found)
    assert "2.00 [1.3, 3.1]" in text
    assert max(map(width_of, text.splitlines())) <= 80


def test_what_is_simulated_carries_no_latency() -> None:
    found = compare([column("a", 3), column("b", 3)])
    assert {r.latency_ms_p50 for r in found.engines if r.simulated} == {None}
    assert {r.throughput_images_per_s for r in found.engines if r.simulated} == {None}
    assert {r.latency_ms_p50 for r in found.engines if not r.simulated} == {1.0}
    assert "simulated engines carry no latency" in found.notes


def test_accuracies_without_bits_are_two_samples() -> None:
    found = compare([column("a", 30, top1_bits=""), column("b", 50)])
    right = [N - 100 + 2 - lost for lost in (30, 50)]
    assert row(found, 2).paired is False
    assert row(found, 2).drop_ci_pp == tuple(100 * e for e in difference_interval(right[0], N, right[1], N))
    assert any("two samples" in note for note in found.notes)


def test_latencies_of_other_devices_or_batches_are_said_to_be_no_comparison() -> None:
    assert "different devices" in compare([column("a", 1), column("b", 1, "Intel")]).notes[0]
    assert "different occasions" in compare([column("a", 1), column("b", 1)]).notes[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data": "other", "images_sha256": ""}, "on other (n = 1000)"),
        ({"images_sha256": "of others"}, "on other images of it (n = 1000)"),
        ({"images_sha256": "", "n": 999}, "on d (n = 999)"),
    ],
)
def test_runs_of_other_images_are_refused(more: Any, said: str) -> None:
    with pytest.raises(MeasurementError) as refused:
        compare([column("a", 1), column("b", 1, **more)])
    assert "a (cpu) was measured on d (n = 1000), b (cpu)" in refused.value.message
    assert said in refused.value.message
    with pytest.raises(MeasurementError, match="nothing to be compared with"):
        compare([column("a", 1)])


def test_the_page_is_whole_refers_to_nothing_outside_and_takes_no_name_for_markup() -> None:
    name = "<script>alert(1)</script>\x1b\"'&"
    page = comparison_html(compare([column(name, 1), column("b" * 300, 1, data=name), column("c", 1, device="Z")]))
    assert "default-src 'none'" in unescape(page)
    assert page.count('aria-label="accuracy against latency of 2 engines"') == 2, "wide and narrow"
    assert page.count('aria-label="accuracy against latency of 1 engines"') == 2, "of another device"
    assert re.search(r'<td class="number">\d\d\.\d\d \[\d\d\.\d, \d\d\.\d\]</td>', page), "numbers are not broken"
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert not re.search(r"src=|href=|url\(|@import", page)
    text = comparison_text(compare([column(name, 1), column("b" * 300, 1)]))
    assert "\x1b" not in text


def test_runs_of_embeddings_have_no_top1_and_say_where_their_figures_are() -> None:
    labels = np.array([0, 0, 1, 1])
    rows = Predictions(tuple("abcd"), labels, np.eye(4, dtype=np.float32), "p", "d")
    chosen = ChosenThreshold(0.5, 90.0, 10, ("x", "y"), ("z", "w"))
    found = measure_verification("int8", rows, rows, all_pairs(labels), chosen)
    file = ResultFile(Path("int8.accuracy.json"), AccuracyFile(verification=found, engine=engine()), None)
    columns: list[Column] = [(name, "r", TargetRun(Path(name) / "cpu", (file,), None), "PASS") for name in "ab"]
    text = comparison_text(compare(columns))
    assert "no top-1 was measured" in text
    assert "b is of an embedding network: how it verifies `edgecnn report b/cpu` shows" in " ".join(text.split())
