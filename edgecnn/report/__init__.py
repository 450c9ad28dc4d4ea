"""One file per output format. Every format renders the results of one run, a mapping with

recipe, target      names
device              flat facts, as in a sidecar
measurements        one flat mapping per precision: accuracy, latency, size
verdict             `Verdict.to_json()`
artifacts           mappings with path, kind, made_by, sha256, parents
notes               sentences that belong to the numbers ("INT8 simulated")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.write import write_bytes
from edgecnn.errors import MeasurementError
from edgecnn.report.html_page import html_report
from edgecnn.report.json_file import json_report
from edgecnn.report.junit import junit_report
from edgecnn.report.markdown import markdown_report

FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    ".md": markdown_report,
    ".json": json_report,
    ".html": html_report,
    ".xml": junit_report,
}


def write_report(path: Path, results: Mapping[str, Any]) -> None:
    """Write the report in the format that the suffix names; raises `MeasurementError` for another suffix."""
    if path.suffix not in FORMATS:
        raise MeasurementError(
            f"{path}: no report has the suffix {path.suffix or '(none)'}", f"use one of {', '.join(FORMATS)}"
        )
    write_bytes(path, FORMATS[path.suffix](results).encode())
