"""HTML: one file without scripts or outside references."""

from __future__ import annotations

from edgecnn.output import inert_html
from edgecnn.report.tables import (
    Table,
    artifact_table,
    check_table,
    class_table,
    conditions,
    headline,
    measurement_table,
)
from edgecnn.results.report import RunReport

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums }
.PASS { color: #06630f } .FAIL { color: #a3040f; font-weight: bold } .INCONCLUSIVE { color: #8a5a00; font-weight: bold }
"""


def html_report(results: RunReport) -> str:
    """The whole report."""
    title = inert_html(headline(results))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + html_tables(results) + "\n</body></html>\n"
    )


def html_tables(results: RunReport) -> str:
    """The report without a page around it, as a notebook shows it."""
    sections = [
        ("", measurement_table(results)),
        ("Verdict per tolerance", check_table(results)),
        ("Classes that lose most", class_table(results)),
        ("What made each artifact", artifact_table(results)),
    ]
    body = [f"<h1 class={results.verdict.verdict}>{inert_html(headline(results))}</h1>"]
    for name, table in sections:
        if table.rows:
            body += [f"<h2>{name}</h2>"] if name else []
            body.append(_table(table))
        if not name:
            body.append("<ul>" + "".join(f"<li>{inert_html(line)}</li>" for line in conditions(results)) + "</ul>")
    return "\n".join(body)


def _table(table: Table) -> str:
    head = "".join(f"<th>{inert_html(c)}</th>" for c in table.header)
    rows = "".join("<tr>" + "".join(_cell(c) for c in row) + "</tr>\n" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"


def _cell(text: str) -> str:
    kind = f" class={text}" if text in ("PASS", "FAIL", "INCONCLUSIVE") else ""
    return f"<td{kind}>{inert_html(text)}</td>"


RunReport.html = html_tables
