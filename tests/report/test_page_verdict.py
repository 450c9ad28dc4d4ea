"""The verdict in words: no more than was proved, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lxml import etree

from edgecnn.report.page.verdict import MAPPED, SAID, UNJUDGED, verdict_in_words, verdict_section
from edgecnn.results.device import Device
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import Check, Verdict


def words(node: Any) -> str:
    return " ".join("".join(node.itertext()).split())


@pytest.mark.parametrize(
    ("outcomes", "mapped_to", "said"),
    [
        (["PASS"], "fail", "Every check passed: what was measured keeps the recipe's tolerances."),
        (["PASS", "INCONCLUSIVE"], "inconclusive", SAID["INCONCLUSIVE"]),
        (["INCONCLUSIVE"], "fail", f"{MAPPED['FAIL']} The recipe counts what is open as a fail."),
        (["PASS", "INCONCLUSIVE"], "pass", f"{MAPPED['PASS']} The recipe counts what is open as a pass."),
        (["FAIL", "INCONCLUSIVE"], "fail", f"{SAID['FAIL']} The recipe counts what is open as a fail."),
        (["FAIL", "INCONCLUSIVE"], "inconclusive", SAID["FAIL"]),
        ([], "pass", UNJUDGED),
    ],
)
def test_no_verdict_says_more_than_was_proved(outcomes: list[Any], mapped_to: Any, said: str) -> None:
    checks = tuple(Check("int8", "size_mb_max", 2.0, None, 1.0, outcome, "evidence") for outcome in outcomes)
    assert verdict_in_words(Verdict(checks, mapped_to)) == said
    unmapped = replace(checks[-1], mappable=False) if outcomes == ["INCONCLUSIVE"] else None
    assert unmapped is None or verdict_in_words(Verdict((unmapped,), "pass")) == SAID["INCONCLUSIVE"]


def test_what_is_said_of_several_engines_is_said_once_and_failures_first() -> None:
    alike = [Check(f"e{k}", "top5_drop_pp_max", None, None, 2.0, "INCONCLUSIVE", "says nothing") for k in range(4)]
    odd = [Check("e9", f"own_{k}", None, None, 1.5, "INCONCLUSIVE", "open") for k in range(9)]
    failed = Check("e4", "agreement_pct_min", 80.0, None, 95.0, "FAIL", "agreement 80 %")
    report = RunReport(
        recipe="r", title="", target="cpu", device=Device(cpu="c", threads=1), device_key="", reference="",
        measurements=(), verdict=Verdict((*alike, *odd, failed)), artifacts=(), notes=(),
    )  # fmt: skip
    first = etree.HTML(verdict_section(report)).find("body/ul")
    assert [words(item) for item in first][:3] == [
        "FAIL e4: agreement, limit 95 % (agreement_pct_min): agreement 80 %",
        "INCONCLUSIVE e0, e1, e2, e3: top-5 drop, limit 2 pp (top5_drop_pp_max): says nothing",
        "INCONCLUSIVE e9: own_0 (limit 1.5): open",
    ]
    assert len(first) == 6
    assert words(first.getnext()[0]) == "5 more"
    assert len(first.getnext()[1]) == 5
