"""GitLab's code-quality report: one finding for each judgement that did not pass."""

from __future__ import annotations

import hashlib
import json

from edgecnn.output import inert
from edgecnn.results.report import RunReport

SEVERITIES = {"FAIL": "critical", "INCONCLUSIVE": "minor", "PASS": "info"}  # by what a finding comes to


def gitlab_report(*runs: RunReport, file: str = "") -> str:
    """A JSON list over `runs`; `file` is the recipe in the repository, where the findings are shown.

    The fingerprint holds no number, so that the same finding is recognised in the next run.
    """
    findings = [
        {
            "description": inert(
                f"{results.recipe} on {results.target}, {j.name}: {j.tolerance} {j.verdict}: {j.evidence}"
            ),
            "check_name": f"edgecnn {j.tolerance}",
            "fingerprint": hashlib.sha256(
                "\n".join([results.recipe, results.target, j.name, j.tolerance, j.verdict]).encode()
            ).hexdigest(),
            "severity": SEVERITIES[results.verdict.counts_as(j)],
            "location": {"path": file or f"recipes/{results.recipe}.toml", "lines": {"begin": 1}},
        }
        for results in runs
        for j in results.verdict.checks
        if j.verdict != "PASS"
    ]
    return json.dumps(findings, indent=1, ensure_ascii=False) + "\n"
