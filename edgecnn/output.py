"""What is shown to a person, line by line.

Names come from elsewhere: what would act on a terminal, end the line or turn its direction, and what is no
character, is spelled out.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterable
from typing import Any

_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_ACTING_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def inert(text: str) -> str:
    """`text` in one line, its control characters and marks of direction spelled out: `\\x1b` for an escape."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def inert_lines(text: str) -> str:
    """`text` where a line's end is harmless."""
    return "\n".join(map(inert, text.split("\n")))


def inert_json(content: Any, indent: int | None = None) -> str:
    """`content` as JSON that reads back the same, with such characters escaped by JSON's own rule."""
    dumped = json.dumps(content, indent=indent, ensure_ascii=False)
    return _ACTING_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", dumped)


def inert_html(text: str) -> str:
    """`text` inside an element or a quoted attribute of HTML or SVG."""
    return html.escape(inert_lines(text))


def print_line(line: object = "") -> None:
    """One line of the result on stdout."""
    print(inert(str(line)))


def print_lines(lines: Iterable[object]) -> None:
    """Lines of the result, each of them one."""
    for line in lines:
        print_line(line)


def say(line: str) -> None:
    """One line besides the result, on stderr."""
    print(inert(line), file=sys.stderr, flush=True)
