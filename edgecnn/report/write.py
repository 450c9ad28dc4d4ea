"""A report as a file: its suffix names the format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from edgecnn.artifact.write import write_bytes
from edgecnn.errors import MeasurementError
from edgecnn.report.csv_file import csv_report
from edgecnn.report.details import RunDetails
from edgecnn.report.html_page import html_report
from edgecnn.report.json_file import json_report
from edgecnn.report.junit import junit_report
from edgecnn.report.markdown import markdown_report
from edgecnn.results.report import RunReport

FORMATS: dict[str, Callable[[RunReport], str]] = {
    ".md": markdown_report,
    ".json": json_report,
    ".html": html_report,
    ".xml": junit_report,
    ".csv": csv_report,
}


def write_report(path: str | os.PathLike[str], results: RunReport, details: RunDetails | None = None) -> None:
    """Write a report in the format that the suffix names: .md, .html, .json, .csv or .xml (JUnit). An HTML page shows
    the `details` too, which `edgecnn.report.details` reads of a run's files.

        import edgecnn as ec
        report = ec.run("lenet5-digits")
        ec.write_report("report.html", report)

    Raises `MeasurementError` for another suffix, `WriteError` where the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise MeasurementError(
            f"{path}: no report has the suffix {path.suffix or '(none)'}", f"use one of {', '.join(FORMATS)}"
        )
    write_bytes(path, render_report(path.suffix, results, details).encode())


def render_report(suffix: str, results: RunReport, details: RunDetails | None = None) -> str:
    """A report in one of `FORMATS`."""
    return html_report(results, details) if suffix == ".html" else FORMATS[suffix](results)
