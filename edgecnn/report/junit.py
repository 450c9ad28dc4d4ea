"""JUnit XML, as Jenkins, GitLab and GitHub actions read it (jenkinsci/xunit-plugin, junit-10.xsd).

One suite per precision, one case per tolerance. What stayed open is an error, unless the recipe lets it pass.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from edgecnn.output import inert_lines
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import Check, Verdict

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_report(*runs: RunReport) -> str:
    """The judgements of one or more runs as test cases."""
    root = ElementTree.Element("testsuites", name="edgecnn")
    totals = dict.fromkeys(("tests", "failures", "errors"), 0)
    for results in runs:
        checks = results.verdict.checks
        prefix = f"{results.recipe}.{results.target}"
        for name in dict.fromkeys(j.name for j in checks):
            suite = ElementTree.SubElement(root, "testsuite", name=_clean(f"{prefix}.{name}"))
            kinds = [_case(suite, f"edgecnn.{prefix}", j, results.verdict) for j in checks if j.name == name]
            counts = {"tests": len(kinds), "failures": kinds.count("failure"), "errors": kinds.count("error")}
            for key, count in counts.items():
                suite.set(key, str(count))
                totals[key] += count
            suite.set("skipped", str(kinds.count("skipped")))
            suite.set("time", "0")
    for key, count in totals.items():
        root.set(key, str(count))
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, prefix: str, check: Check, verdict: Verdict) -> str | None:
    """Add one test case; returns the element that says it did not pass, or None."""
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_clean(f"{prefix}.{check.name}"),
        name=_clean(check.tolerance),
        time="0",
    )
    open_as = {"FAIL": "failure", "INCONCLUSIVE": "error", "PASS": "skipped"}[verdict.counts_as(check)]
    kind = {"PASS": None, "FAIL": "failure", "INCONCLUSIVE": open_as}[check.verdict]
    text = _clean(check.evidence + _limit(check))
    if kind is None:
        ElementTree.SubElement(case, "system-out").text = text
    elif kind == "skipped":
        ElementTree.SubElement(case, kind, message=f"INCONCLUSIVE: {text}")
    else:
        ElementTree.SubElement(case, kind, type=check.verdict, message=text).text = text
    return kind


def _limit(check: Check) -> str:
    return "" if check.limit is None else f" (limit {check.limit:g})"


def _clean(text: str) -> str:
    """What XML 1.0 can hold, in lines that a page shows as they are."""
    return NOT_XML.sub("?", inert_lines(text))
