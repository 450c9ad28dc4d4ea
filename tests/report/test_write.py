"""Every output format from one run with a pass, a failure and something open; CI formats against their schemas."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from edgecnn.errors import MeasurementError, WriteError
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.report.github import append_summary, github_annotations
from edgecnn.report.gitlab import gitlab_report
from edgecnn.report.json_file import json_report
from edgecnn.report.junit import junit_report
from edgecnn.report.markdown import markdown_comment, markdown_report
from edgecnn.report.write import FORMATS, write_report
from edgecnn.results.accuracy import ClassLoss
from edgecnn.results.accuracy_baseline import BaselineDrop
from edgecnn.results.baseline import Baseline, BaselineRow
from edgecnn.results.device import Device
from edgecnn.results.latency import Clocks
from edgecnn.results.report import ArtifactFacts, RunReport
from edgecnn.results.verdict import Check, Verdict
from tests.fakes.measurements import accuracy, latency, measurement, ratio

CHECKS = (
    Check("fp16", "top1_drop_pp_max", 0.0, (-0.7, 0.7), 2.0, "PASS", "drop 0.00 pp, n = 540"),
    Check("int8", "top1_drop_pp_max", 3.1, (2.2, 4.6), 2.0, "FAIL", "drop 3.10 pp\nn = 540, 50 % <of> it: a|b & c"),
    Check("int8", "latency_ratio_max", 0.9, (0.8, 1.1), 1.0, "INCONCLUSIVE", "ratio \x00 open", 9000),
)


CLASS_8 = ClassLoss(8, "eight", 54, 5, 0, 9.3, (2.9, 19.9))
ARTIFACT = ArtifactFacts("model.int8.onnx", "graph", "edgecnn quantize", "ab" * 32, ("model.fp32.onnx",), {}, "", 0.07)
TIMED: dict[str, Any] = {
    "latency_ms_p50": 0.41,
    "latency_ms_p90": 0.5,
    "latency_ms_p99": None,
    "latency_ms_p99_ci": None,
    "throughput_images_per_s": 2400.0,
    "n_queries": 300,
    "warnings": ("unstable",),
    "clocks": Clocks(cpu_mhz=2600.0),
}


def results(inconclusive: Any = "inconclusive", checks: Any = CHECKS, **changes: Any) -> RunReport:
    """INT8 with everything measured, FP16 with its accuracy alone; `worst` and `timed` change those of INT8."""
    int8 = accuracy(
        n=540,
        lost=17,
        gained=0,
        data="digits",
        top1_pct=95.1,
        top5_pct=99.8,
        top1_drop_pp=3.1,
        top1_drop_ci_pp=(2.2, 4.6),
        agreement_pct=96.0,
        findings=("1 left out",),
        worst_classes=(changes.pop("worst", CLASS_8),),
    )
    fp16 = accuracy(n=540, lost=0, gained=0, name="fp16", top1_pct=98.2)
    rows = (
        measurement(
            "int8",
            accuracy=int8,
            latency=latency(**TIMED, **changes.pop("timed", {})),
            ratio=ratio(0.9, (0.8, 1.1)),
            size_mb=0.07,
        ),
        measurement("fp16", accuracy=fp16),
    )
    known: dict[str, Any] = {
        "recipe": "lenet5-digits",
        "title": "LeNet-5",
        "target": "cpu",
        "device": Device(cpu="AMD EPYC", threads=2),
        "device_key": "amd-epyc-2threads",
        "reference": "fp32",
        "measurements": rows,
        "verdict": Verdict(tuple(checks), inconclusive),
        "artifacts": (ARTIFACT,),
        "notes": ("INT8 simulated",),
    }
    return RunReport(**{**known, **changes})


def rows_of(markdown: str, first: str) -> list[list[str]]:
    """Cells of the pipe table whose header starts with `first`."""
    lines = markdown.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {first} "))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_markdown_has_the_whole_table_the_evidence_and_what_made_what() -> None:
    text = markdown_report(results())
    assert text.startswith("# lenet5-digits on cpu: FAIL\n")
    header, _, int8, fp16 = rows_of(text, "precision")
    row = dict(zip(header, int8, strict=True))
    assert row["top-1 drop pp [95 %]"] == "3.10 [2.20, 4.60]"
    assert (row["p50 ms"], row["p90 ms"], row["p99 ms"]) == ("0.410", "0.500", "-")
    assert (row["n"], row["size MB"], row["agreement %"]) == ("540", "0.07", "96.00")
    assert dict(zip(header, fp16, strict=True))["p50 ms"] == dict(zip(header, fp16, strict=True))["size MB"] == "-"
    verdicts = rows_of(text, "verdict")
    assert [r[0] for r in verdicts[2:]] == ["PASS", "FAIL", "INCONCLUSIVE"]
    assert "a\\|b" in verdicts[3][4]
    assert rows_of(text, "artifact")[2][:3] == ["model.int8.onnx", "graph", "edgecnn quantize"]
    for said in (
        "INT8 simulated",
        "AMD EPYC",
        "int8: unstable",
        "1 left out",
        "without transfers",
        "cpu_mhz 2600",
        "eight",
    ):
        assert said in text


@pytest.mark.parametrize(
    "name", ["a|b", "back\\|slash", "<b>bold", "__init__", "*star*", "`tick", "[x](http://y)", "&lt;", "two\nlines"]
)
def test_markdown_shows_names_as_they_are(name: str) -> None:
    checks = (CHECKS[0], dataclasses.replace(CHECKS[1], evidence=f"lost {name}"), CHECKS[2])
    worst = dataclasses.replace(CLASS_8, label_name=name)
    content = results(checks=checks, worst=worst, notes=(f"note {name}",))
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    report, comment = (etree.HTML(reader.render(f(content))) for f in (markdown_report, markdown_comment))
    shown = name.replace("\n", " ")
    for page in (report, comment):
        assert f"lost {shown}" in " ".join("".join(page.itertext()).split())
        assert not page.xpath("//b | //a | //em | //td//strong")
    assert f"note {shown}" in "".join(report.itertext())
    classes = report.xpath("//table")[2]
    assert ["".join(cell.itertext()) for cell in classes.xpath(".//td")][:3] == ["int8", shown, "54"]


def test_a_comment_shows_the_change_against_the_baseline() -> None:
    drop = BaselineDrop(
        baseline="last",
        top1_pct=97.0,
        agreement_pct=97.6,
        n=540,
        top1_n=524,
        paired=False,
        lost=None,
        gained=None,
        drop_pp=1.9,
        drop_ci_pp=(-0.5, 4.3),
    )
    found = results()
    rows = tuple(dataclasses.replace(m, baseline_drops=(drop,)) if m.name == "int8" else m for m in found.measurements)
    now = dataclasses.replace(found, measurements=rows)
    baseline = Baseline("cpu-key", {"int8": BaselineRow(size_mb=0.07)})
    text = markdown_comment(now, baseline)
    header, _, int8, fp16 = rows_of(text, "precision")
    assert dict(zip(header, int8, strict=True))["top-1 %"] == "95.1 (-1.9)"
    assert dict(zip(header, int8, strict=True))["size MB"] == "0.07 (+0)"
    assert dict(zip(header, fp16, strict=True))["top-1 %"] == "98.2"
    assert "cpu-key" in text
    for mode, shown in (
        ("single-shot", f"{TIMED['latency_ms_p50']} (+0)"),
        ("pipelined", str(TIMED["latency_ms_p50"])),
    ):
        timed = BaselineRow(mode=mode, latency_ms_p50=TIMED["latency_ms_p50"])
        header, _, int8, _ = rows_of(markdown_comment(now, Baseline("cpu-key", {"int8": timed})), "precision")
        assert dict(zip(header, int8, strict=True))["p50 ms"] == shown
    assert text.count("- **") == 2
    assert "--record" in markdown_comment(now)
    assert "All 1 checks passed" in markdown_comment(results(checks=CHECKS[:1]))


@pytest.mark.parametrize("inconclusive", ["inconclusive", "pass"])
def test_every_format_shows_what_guessing_would_reach_as_open_with_the_images_it_takes(inconclusive: Any) -> None:
    said = "the reference cannot be told from guessing: about 26 images would settle it"
    open_one = Check("fp32", "top1_drop_pp_max", 0.0, (-14, 14), 20.0, "INCONCLUSIVE", said, 26, mappable=False)
    content = results(inconclusive, (CHECKS[0], open_one))
    assert content.verdict.exit_code == 3
    (error,) = etree.fromstring(junit_report(content).encode()).findall(".//error")
    assert error.get("type") == "INCONCLUSIVE"
    assert error.get("message") == f"{said} (limit 20)"
    assert rows_of(markdown_report(content), "verdict")[3] == [
        "INCONCLUSIVE",
        "fp32",
        "top1_drop_pp_max",
        "20",
        said,
    ]
    assert f"- **INCONCLUSIVE** fp32: top1_drop_pp_max (limit 20): {said}" in markdown_comment(content).replace(
        "\\", ""
    )
    assert json.loads(json_report(content))["verdict"]["checks"][1]["images_needed"] == 26
    assert "::warning title=lenet5-digits fp32%3A top1_drop_pp_max::INCONCLUSIVE" in github_annotations(content)
    assert [f["severity"] for f in json.loads(gitlab_report(content))] == ["minor"]
    assert '<td class="INCONCLUSIVE">INCONCLUSIVE</td><td>fp32</td>' in FORMATS[".html"](content)


@pytest.mark.parametrize(
    ("inconclusive", "kind"), [("inconclusive", "error"), ("pass", "skipped"), ("fail", "failure")]
)
def test_junit_is_valid_and_counts_what_it_holds(inconclusive: str, kind: str) -> None:
    schema = etree.XMLSchema(etree.parse(Path(__file__).with_name("junit.xsd")))
    root = etree.fromstring(junit_report(results(inconclusive)).encode())
    schema.assertValid(root)
    suites = {s.get("name"): s for s in root}
    assert suites.keys() == {"lenet5-digits.cpu.fp16", "lenet5-digits.cpu.int8"}
    int8 = suites["lenet5-digits.cpu.int8"]
    assert [case.get("name") for case in int8] == ["top1_drop_pp_max", "latency_ratio_max"]
    assert int8[0].find("failure").get("message").startswith("drop 3.10 pp")
    assert int8[1][0].tag == kind
    for attribute, tag in (("failures", "failure"), ("errors", "error")):
        assert int(root.get(attribute)) == len(root.findall(f".//{tag}"))
        assert int(int8.get(attribute)) == len(int8.findall(f".//{tag}"))
    assert root.get("tests") == "3"


def test_junit_without_checks_is_valid() -> None:
    schema = etree.XMLSchema(etree.parse(Path(__file__).with_name("junit.xsd")))
    schema.assertValid(etree.fromstring(junit_report(results(checks=())).encode()))


def test_github_annotations_are_escaped_and_name_the_recipe() -> None:
    lines = github_annotations(results(), "recipes/lenet5-digits.toml").splitlines()
    assert len(lines) == 3
    parsed = [re.fullmatch(r"::(error|warning|notice) file=([^,:]+),line=1,title=([^,:]+)::(.*)", s) for s in lines]
    assert all(parsed)
    assert [m[1] for m in parsed if m] == ["error", "warning", "error"]
    assert "%0An = 540, 50 %25 <of> it" in lines[0]
    assert github_annotations(results(checks=CHECKS[:1])).startswith("::notice title=lenet5-digits%3A PASS::")


def test_a_limit_is_said_where_there_is_one() -> None:
    precision = Check("int8", "precision_obtained", None, None, None, "FAIL", "int8 was requested")
    content = results(checks=(*CHECKS, precision))
    xml = etree.fromstring(junit_report(content).encode())
    failures = {f.getparent().get("name"): f.get("message") for f in xml.iter("failure")}
    assert failures["top1_drop_pp_max"].endswith("(limit 2)")
    assert failures["precision_obtained"] == "int8 was requested"
    for text in (github_annotations(content), markdown_comment(content)):
        lines = text.splitlines()
        assert "(limit 2)" in next(line for line in lines if "top1_drop_pp_max" in line)
        assert "limit" not in next(line for line in lines if "precision_obtained" in line)


def test_conditions_say_what_a_query_was() -> None:
    content = results()
    assert "clock host, without transfers, no CUDA graph, synchronous call" in markdown_report(content)
    content = results(timed={"transfers": True, "graph": True, "sync": "stream synchronisation"})
    assert "clock host, with transfers, a CUDA graph, stream synchronisation" in markdown_report(content)
    header, _, int8, fp16 = rows_of(markdown_report(content), "precision")
    assert [dict(zip(header, row, strict=True))["mode"] for row in (int8, fp16)] == ["single-shot", "-"]
    said = "int8: the ratio is of single-shot queries on both sides"
    assert said not in markdown_report(content)
    content = results(timed={"mode": "pipelined", "streams": 2})
    assert "int8: pipelined mode, batch 1" in markdown_report(content)
    assert "2 streams, clock host" in markdown_report(content)
    assert said in markdown_report(content)
    content = results(artifacts=(dataclasses.replace(ARTIFACT, sha256=""),))
    assert rows_of(markdown_report(content), "artifact")[2][3] == ""
    assert rows_of(markdown_report(results()), "artifact")[2][3] == "ab" * 6


def test_the_step_summary_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("# other step\n")
    append_summary(path, "# edgecnn")
    append_summary(path, "# again")
    assert path.read_text() == "# other step\n# edgecnn\n# again\n"


def test_gitlab_findings_have_what_gitlab_requires() -> None:
    findings = json.loads(gitlab_report(results()))
    assert len(findings) == 2
    for finding in findings:
        assert finding.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert finding["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert re.fullmatch("[0-9a-f]{64}", finding["fingerprint"])
        assert finding["location"] == {"path": "recipes/lenet5-digits.toml", "lines": {"begin": 1}}
    assert len({f["fingerprint"] for f in findings}) == 2
    moved = [dataclasses.replace(j, value=9.9, evidence="another number") for j in CHECKS]
    again = json.loads(gitlab_report(results(checks=moved)))
    assert [f["fingerprint"] for f in again] == [f["fingerprint"] for f in findings]


class Structure(HTMLParser):
    """Cells of all tables, and whether every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        assert tag in ("meta", "img", "br")

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_html_is_whole_and_refers_to_nothing_outside() -> None:
    text = FORMATS[".html"](results())
    parsed = Structure()
    parsed.feed(text)
    assert parsed.open == []
    assert "3.10 [2.20, 4.60]" in parsed.cells
    assert "drop 3.10 pp\nn = 540, 50 % <of> it: a|b & c" in parsed.cells
    assert not re.search(r"<script|src=|href=|style=", text)


def test_json_is_the_results_and_holds_no_nan() -> None:
    written = json.loads(json_report(results()))
    assert record_from_mapping(RunReport, written, "report.json", "") == results()
    assert written == json.loads(json.dumps(to_plain(results())))
    int8 = written["measurements"][0]
    assert (int8["top1_pct"], int8["latency_ms_p50"], int8["latency_ratio"], int8["size_mb"]) == (95.1, 0.41, 0.9, 0.07)
    assert (written["verdict"]["verdict"], written["verdict"]["exit_code"]) == ("FAIL", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_report(results(timed={"drift_pct": float("nan")}))


def test_a_report_is_written_in_the_format_of_its_suffix(tmp_path: Path) -> None:
    for suffix in FORMATS:
        write_report(tmp_path / f"report{suffix}", results())
        assert (tmp_path / f"report{suffix}").stat().st_size > 500
    with pytest.raises(MeasurementError, match="suffix .pdf"):
        write_report(tmp_path / "report.pdf", results())


def test_a_junit_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"report\.xml"):
        write_report(tmp_path / "file" / "report.xml", results())
