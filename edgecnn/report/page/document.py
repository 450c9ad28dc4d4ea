"""The document around a page's parts: one file, no script, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from edgecnn.report.page.elements import Html, element, join, text

STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8").strip()


def document(title: str, *parts: str, description: str = "") -> str:
    """A whole page. Its policy lets a browser fetch nothing, run nothing, and take no style but this one."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="description", content=description) if description else Html(),
            element("title", text(title)),
            element("style", Html(STYLE)),
        ],
        "\n",
    )
    body = element("body", element("main", join((part for part in parts if part), "\n")))
    return f"<!DOCTYPE html>\n{element('html', element('head', head), body, lang='en')}\n"
