"""Text for people in lines that fit."""

from __future__ import annotations

import shlex
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from edgecnn.output import inert

WIDTH = 80


def width_of(text: str) -> int:
    """Columns of a terminal: wide characters take two, those that combine none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fit(text: str, width: int) -> str:
    """`text` in exactly `width` columns, cut in the middle where it has more: a name's ends tell it from others."""
    shown = inert(text)
    if width_of(shown) > width:
        head, tail = shown[: width // 2], shown[len(shown) - width // 2 :]
        while width_of(head) > (width - 2) // 2:
            head = head[:-1]
        while width_of(tail) > width - 2 - width_of(head):
            tail = tail[1:]
        shown = f"{head}..{tail}"
    return shown + " " * (width - width_of(shown))


def wrap(text: str, indent: str = "") -> list[str]:
    """`text` in lines of at most `WIDTH` columns; those after the first are indented by two more."""
    return textwrap.wrap(
        inert(text), WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    )


def shell_lines(command: Sequence[str], indent: str) -> Iterator[str]:
    """A command to copy, an option in no line without its value where that fits; a word is never cut."""
    groups: list[str] = []
    for word in command:
        quoted = shlex.quote(word)
        if groups and groups[-1][:1] == "-" and " " not in groups[-1] and word[:1] != "-":
            groups[-1] += f" {quoted}"
        else:
            groups.append(quoted)
    line = indent
    for k, group in enumerate(groups):
        joined = group if line.strip() == "" else f" {group}"
        if line.strip() and width_of(line + joined) > WIDTH - 2 * (k < len(groups) - 1):
            yield f"{line} \\"
            line, joined = f"{indent}  ", group
        line += joined
    yield line
