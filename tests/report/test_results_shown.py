"""What results look like in a console and in a notebook: one line, and tables without scripts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import edgecnn as ec
from edgecnn.results.device import Device
from edgecnn.results.engine import EngineInfo
from edgecnn.results.latency import Clocks, LatencyRow


def accuracy(**changes: object) -> ec.Accuracy:
    known = {
        "name": "int8",
        "data": "digits",
        "n": 540,
        "n_labelled": 540,
        "classes": 10,
        "top1_pct": 98.888,
        "reference_top1_pct": 99.07,
        "top1_drop_pp": 0.1852,
        "top1_drop_ci_pp": (-0.1, 0.52),
        "agreement_pct": 99.8,
        "agreement_ci_pct": (99.0, 100.0),
        "agreement_n": 540,
        "agreement_guess_p": 0.0,
        "copy_guess_p": 0.0,
        "nan_count": 0,
        **dict.fromkeys(("unreadable", "findings", "worst_classes", "changed"), ()),
    }
    names = ec.Accuracy.__dataclass_fields__.keys() - {"task"}
    return ec.Accuracy(**{**dict.fromkeys(names), **known, **changes})  # type: ignore[arg-type]


def latency() -> ec.Latency:
    known = {
        "name": "int8<script>",
        "mode": "single-shot",
        "batch": 1,
        "n_queries": 900,
        "latency_ms_mean": 0.55,
        "latency_ms_min": 0.4,
        "latency_ms_max": 0.9,
        "latency_ms_bins": (),
        "latency_ms_bin_n": (),
        "latency_ms_p50": 0.5,
        "latency_ms_p99": 0.75,
        "throughput_images_per_s": 2000.0,
        "sync": "",
        "streams": 1,
        "clocks": Clocks(),
        "warnings": ("unstable <clocks>",),
    }
    return ec.Latency(**{**dict.fromkeys(f.name for f in dataclasses.fields(ec.Latency)), **known})  # type: ignore[arg-type]


def verdict() -> ec.Verdict:
    return ec.Verdict(
        (
            ec.Check("int8", "top1_drop_pp_max", 0.2, (-0.1, 0.5), 1.0, "PASS", "drop 0.2"),
            ec.Check("int8", "agreement_pct_min", 99.8, None, 99.9, "FAIL", "agreement 99.8"),
        )
    )


def report() -> ec.RunReport:
    measurement = ec.Measurement(name="int8", engine=EngineInfo(), accuracy=accuracy(), latency=latency())
    return ec.RunReport(
        recipe="mine",
        title="",
        target="cpu",
        device=Device(cpu="one"),
        device_key="one",
        reference=None,
        measurements=(measurement,),
        verdict=verdict(),
        artifacts=(),
        notes=("a note",),
    )


def test_a_result_is_one_line_in_a_console() -> None:
    file = ec.LatencyFile(
        device=Device(cpu="one", threads=2), reference=None, measurements=(LatencyRow(latency=latency()),)
    )
    assert repr(accuracy()) == "Accuracy(int8: top-1 98.9 %, drop 0.19 pp [-0.1, 0.5], agreement 99.8 %, n=540)"
    assert repr(accuracy(top1_pct=None, top1_drop_pp=None)) == "Accuracy(int8: agreement 99.8 %, n=540)"
    assert repr(latency()) == "Latency(int8<script>: p50 0.5 ms, p99 0.75 ms, 2e+03 images/s, batch 1, n=900)"
    assert repr(file).startswith("LatencyFile(one-2threads: int8<script>: p50 0.5 ms, p99 0.75 ms")
    assert repr(verdict()) == "Verdict(FAIL: 1 PASS, 1 FAIL)"
    assert repr(ec.Verdict(())) == "Verdict(INCONCLUSIVE: no checks)"
    assert repr(report()) == "RunReport(mine on cpu: FAIL; int8)"
    assert (file.p50, file.p99) == (0.5, 0.75)


def test_a_notebook_shows_the_tables_and_no_script() -> None:
    shown = report()._repr_html_()
    assert shown is not None
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(shown)
    assert {"table", "h1"} <= set(tags)
    assert not {"script", "style", "html"} & set(tags), "a style would be that of the whole notebook"
    assert "98.89" in shown
    assert "unstable &lt;clocks&gt;" in shown


def test_a_report_read_in_another_process_shows_its_tables_too() -> None:
    """`ec.RunReport` alone renders: nothing else need have been imported."""
    script = "import edgecnn as ec; print(ec.RunReport.html is not None)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("name", ["report.pdf", "report", Path("x") / "report.docx"])
def test_a_report_in_another_format_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ec.MeasurementError, match="no report has the suffix") as caught:
        ec.write_report(tmp_path / name, report())
    assert ".html" in caught.value.hint


def test_a_report_is_written_where_a_string_says(tmp_path: Path) -> None:
    ec.write_report(str(tmp_path / "r.html"), report())
    assert "<table>" in (tmp_path / "r.html").read_text(encoding="utf-8")
