"""HTML: one file that opens offline, without scripts or outside references."""

from __future__ import annotations

from edgecnn.report.charts.gradients import gradients_drawing
from edgecnn.report.details import RunDetails
from edgecnn.report.page.accuracy import accuracy_section, class_section, picture_section
from edgecnn.report.page.document import document
from edgecnn.report.page.elements import Html, element, folded, join, section, table_of
from edgecnn.report.page.glossary import glossary
from edgecnn.report.page.inside import layer_section, serving_section, share_section
from edgecnn.report.page.latency import latency_section, tradeoff_section
from edgecnn.report.page.provenance import provenance_section
from edgecnn.report.page.verdict import verdict_section
from edgecnn.report.tables import (
    artifact_table,
    check_table,
    class_table,
    conditions,
    headline,
    measurement_table,
)
from edgecnn.results.report import RunReport


def html_report(results: RunReport, details: RunDetails | None = None) -> str:
    """The whole page, verdict first; without `details` it shows what the report itself holds."""
    details = details or RunDetails()
    return document(
        headline(results),
        verdict_section(results),
        accuracy_section(results),
        latency_section(results),
        tradeoff_section([results, *details.others]),
        class_section(results, details),
        picture_section(details),
        layer_section(details),
        share_section(results),
        gradient_section(details),
        serving_section(results, details),
        folded("All measurements in one table", table_of(measurement_table(results))),
        provenance_section(results, details),
        element("footer", folded("What the words mean", glossary())),
    )


def gradient_section(details: RunDetails) -> Html:
    """The norm of each layer's gradient, epoch by epoch, where the training recorded them."""
    drawn = gradients_drawing([details.gradients]) if details.gradients else Html()
    note = "Mean over an epoch's steps of the norm of the loss's gradient by a layer's weights, before clipping."
    return section("Gradients of the training", element("p", note, class_="note") if drawn else Html(), drawn)


def html_tables(results: RunReport) -> str:
    """The report without a page around it, as a notebook shows it."""
    sections = [
        ("Verdict per tolerance", check_table(results)),
        ("Classes that lose most", class_table(results)),
        ("What made each artifact", artifact_table(results)),
    ]
    body = [
        element("h1", headline(results), class_=results.verdict.verdict),
        table_of(measurement_table(results)),
        element("ul", *(element("li", line) for line in conditions(results))),
    ]
    for name, content in sections:
        if content.rows:
            body += [element("h2", name), table_of(content)]
    return join(body, "\n")


RunReport.html = html_tables
