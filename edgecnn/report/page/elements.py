"""Elements of HTML and SVG as text. What is not `Html` is made inert where it becomes part of an element."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgecnn.output import inert_html
from edgecnn.report.tables import Table

OUTCOMES = ("PASS", "FAIL", "INCONCLUSIVE")
VOID = {"img", "meta", "br"}
_NUMBER = re.compile(r"[-+\d][\d.e+-]*( \[[^]]{1,30}\])?")  # with its interval


class Html(str):
    """Markup that is whole, its text escaped."""

    __slots__ = ()


def text(value: str) -> Html:
    """Any text as markup that neither breaks the page nor acts on the text around it."""
    return value if isinstance(value, Html) else Html(inert_html(value))


def element(tag: str, /, *content: str, **attributes: str | float | None) -> Html:
    """`<tag ...>content</tag>`: `class_` and `stroke_width` write class and stroke-width; None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Html(f"<{tag}{written}/>")
    return Html(f"<{tag}{written}>{join(content)}</{tag}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """Parts one after the other."""
    return Html(between.join(text(part) for part in parts))


def _value(value: str | float) -> str:
    return text(value) if isinstance(value, str) else f"{round(value, 1):g}"


def section(title: str, *content: str) -> Html:
    """A part of the page under its heading; nothing where it has no content."""
    shown = [part for part in content if part]
    return element("section", element("h2", title), *shown) if shown else Html()


def folded(summary: str, *content: str, opened: bool = False) -> Html:
    """What is read on demand; nothing where it has no content."""
    shown = [part for part in content if part]
    return element("details", element("summary", summary), *shown, open="" if opened else None) if shown else Html()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Rows below a header, in a frame of its own that scrolls where the screen is narrow; nothing without rows."""
    body = [element("tr", *(_cell(cell) for cell in row)) for row in rows]
    if not body:
        return Html()
    head = element("thead", element("tr", *(element("th", cell, scope="col") for cell in header)))
    inner = element("table", head, element("tbody", join(body, "\n")))
    return element("div", inner, class_="scroll", tabindex="0", role="group", aria_label="table")


def table_of(content: Table) -> Html:
    """One of the tables that all formats share."""
    return table(content.header, content.rows)


def bullets(lines: Iterable[str]) -> Html:
    """A list; nothing without lines."""
    items = [element("li", line) for line in lines]
    return element("ul", *items) if items else Html()


def outcome(word: str) -> Html:
    """A verdict's word in its color."""
    return element("strong", word, class_=word if word in OUTCOMES else None)


def _cell(content: str) -> Html:
    kind = content if content in OUTCOMES else "number" if _NUMBER.fullmatch(content) else None
    return element("td", content, class_=kind)
