"""Names that would act where a report is shown: each format shows them and obeys none."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from lxml import etree
from lxml import html as lxml_html

from edgecnn.report.github import github_annotations
from edgecnn.report.gitlab import gitlab_report
from edgecnn.report.junit import junit_report
from edgecnn.report.markdown import markdown_comment
from edgecnn.report.terminal import closing_line, terminal_report
from edgecnn.report.write import FORMATS
from edgecnn.results.accuracy import ClassLoss
from edgecnn.results.baseline import Baseline
from edgecnn.results.device import Device
from edgecnn.results.report import ArtifactFacts, RunReport
from edgecnn.results.verdict import Check, Verdict
from tests.fakes.measurements import accuracy, measurement

NAME = "=HYPERLINK(1)\x1b[2J\x9b\u202e\x00|`<script>x</script>&amp;[a](javascript:1)]]>~~*_\n::error::FORGED\r# FORGED"
SHOWN: dict[str, Any] = {
    **{f"report{suffix}": FORMATS[suffix] for suffix in FORMATS if suffix != ".json"},
    "comment": markdown_comment,
    "terminal": terminal_report,
    "closing line": lambda report: closing_line([report]),
    "github": lambda report: github_annotations(report, NAME),
    "gitlab": lambda report: "\n".join(row["description"] for row in json.loads(gitlab_report(report))),
}


def report() -> RunReport:
    worst = ClassLoss(1, NAME, 54, 5, 0, 9.3, (2.9, 19.9))
    found = accuracy(n=540, lost=17, gained=0, worst_classes=(worst,), findings=(NAME,))
    checks = tuple(Check(NAME, NAME, 1.0, None, 2.0, verdict, NAME) for verdict in ("FAIL", "INCONCLUSIVE", "PASS"))
    return RunReport(
        recipe=NAME, title=NAME, target=NAME, device=Device(cpu=NAME, threads=2), device_key=NAME, reference=NAME,
        measurements=(measurement(NAME, accuracy=found),), verdict=Verdict(checks, "inconclusive"),
        artifacts=(ArtifactFacts(NAME, "graph", NAME, "ab" * 32, (NAME,), {}, "", 0.07),), notes=(NAME, "1. a", "> a"),
    )  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_no_format_obeys_a_name(kind: str) -> None:
    text = SHOWN[kind](report())
    assert "HYPERLINK" in text
    assert not {"\x1b", "\x9b", "\u202e", "\x00", "\r"} & set(text)
    if kind not in ("report.html", "report.xml"):  # where a line's end is nothing
        assert not any(line.startswith(("::error::FORGED", "# FORGED")) for line in text.split("\n"))


def test_xml_and_html_are_whole() -> None:
    root = etree.fromstring(junit_report(report()).encode())
    assert {e.tag for e in root.iter()} == {"testsuites", "testsuite", "testcase", "failure", "error", "system-out"}
    assert {case.get("name") for case in root.iter("testcase")} == {root[0][0].get("name")}
    page = lxml_html.fromstring(FORMATS[".html"](report()))
    assert page.findall(".//script") == page.findall(".//a") == []


@pytest.mark.parametrize("render", [FORMATS[".md"], lambda found: markdown_comment(found, Baseline(NAME, {}))])
def test_markdown_keeps_its_rows_and_has_no_markup_of_a_name(render: Any) -> None:
    MarkdownIt = pytest.importorskip("markdown_it").MarkdownIt

    text = render(report())
    parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    kinds = {t.type for token in parsed for t in (token, *(token.children or ()))}
    markup = {"code_inline", "link_open", "s_open", "em_open", "html_inline", "blockquote_open", "ordered_list_open"}
    assert kinds & markup == set()
    cells = [token.type for token in parsed if token.type in ("th_open", "td_open")]
    rows = [line for line in text.split("\n") if line.startswith("| ") and not line.startswith("| --- ")]
    assert rows
    assert len(cells) == sum(len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows)
    assert not [line for line in text.split("\n") if line.startswith("# FORGED")]


def test_a_reading_of_the_json_gives_the_name_back() -> None:
    assert json.loads(FORMATS[".json"](report()))["recipe"] == NAME
