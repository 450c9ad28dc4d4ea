"""What is shown to a person, line by line.

Names come from elsewhere: what would act on a terminal, end the line or turn its direction, and what is no
character, is spelled out.
What is laid out fits `WIDTH` columns, but for words (paths, names, hashes) that are longer.
"""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

WIDTH = 80
NARROWEST_TEXT = 18  # columns below which wrapped text is no longer read
GAP = "  "
ERASED = "\r\033[K"  # what is drawn on the terminal's line

_NUMBER = re.compile(r"-|[-+]?[\d.]+(e[-+]\d+)?")
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


def is_terminal(stream: TextIO) -> bool:
    """Whether lines on `stream` can be drawn again and colored: a terminal, and not a dumb one."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def width_of(text: str) -> int:
    """Columns of a terminal: wide characters take two, those that combine none."""
    if text.isascii():
        return len(text)
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
    return _padded(shown, width)


def wrap(text: str, indent: str = "", hanging: str = GAP, *, cut_words: bool = False) -> list[str]:
    """`text` in lines of at most `WIDTH` columns, those after the first indented by `hanging` more. A word that is
    longer (a path, to be copied) stays whole in a line of its own unless `cut_words`."""
    words = re.findall(r"\s*\S+(?: %(?=\W|$))?", inert(text))  # a number and its per cent are one word
    if cut_words:
        most = WIDTH - len(indent + hanging)
        words = [part for word in words for part in _chunks(word, most)]
    return _filled(words, indent, indent + hanging, WIDTH)


def _chunks(word: str, most: int) -> Iterator[str]:
    while width_of(word) > most:
        end = next(k for k in range(len(word), 0, -1) if k == 1 or width_of(word[:k]) <= most)
        yield word[:end]
        word = word[end:]
    yield word


def _filled(pieces: Iterable[str], first: str, then: str, width: int) -> list[str]:
    """The pieces one after the other, a new line begun before one that does not fit."""
    lines, fresh = [first], True
    for piece in pieces:
        if not fresh and width_of(lines[-1] + piece) > width:
            lines.append(then + piece.lstrip())
        else:
            lines[-1] += piece
        fresh = False
    return [line.rstrip() for line in lines]


def _padded(text: str, width: int, right: bool = False) -> str:
    room = " " * (width - width_of(text))
    return room + text if right else text + room


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


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    """Aligned columns below a header, numbers to the right. Where they do not fit, names break after an underscore and
    text between words; a table that is too wide even so comes in several, each with the first column, and a single row
    as its facts."""
    table = [[inert(cell) for cell in row] for row in (header, *rows)]
    if (widths := _column_widths(table, width)) is not None:
        right = [k > 0 and all(map(_NUMBER.fullmatch, cells)) for k, (_, *cells) in enumerate(zip(*table, strict=True))]
        return [line for row in table for line in _row_lines(row, widths, right)]
    parts = _split_columns(table, width) if len(rows) > 1 else []
    lines: list[str] = []
    for part in parts:
        name, *others = ([row[k] for k in part] for row in table)
        lines += [*([""] if lines else []), *table_lines(name, others, width)]
    for row in table[1:] if not parts else ():
        lines += [*([""] if lines else []), *fact_lines(dict(zip(table[0], row, strict=True)))]
    return lines


def fact_lines(facts: dict[str, str], indent: str = "") -> list[str]:
    """A name and its value a line, values aligned; a word that does not fit beside its name stands below it."""
    width = max(map(width_of, facts), default=0)
    lines: list[str] = []
    for name, value in facts.items():
        start = f"{indent}{_padded(name, width)}{GAP}"
        longest = max(map(width_of, value.split()), default=0)
        if width_of(start) + longest > WIDTH:
            lines += [indent + name.rstrip(), *wrap(value, indent + GAP, "")]
        else:
            lines += _filled(re.findall(r"\s*\S+", inert(value)), start, " " * width_of(start), WIDTH)
    return lines


def _broken(cell: str, width: int) -> list[str]:
    """A cell in lines: text between its words, a name after its underscores."""
    return _filled(re.findall(r"\s*\S+" if " " in cell else r"[^_]*_+|[^_]+", cell), "", "", width)


def _row_lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    broken = [
        [cell] if width_of(cell) <= width else _broken(cell, width) for cell, width in zip(row, widths, strict=True)
    ]
    for k in range(max(map(len, broken))):
        parts = [cell[k] if k < len(cell) else "" for cell in broken]
        yield GAP.join(map(_padded, parts, widths, right)).rstrip()


def _column_widths(table: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Columns of each, the widest broken first; None where they do not fit."""
    widths, least = [], []
    for name, *cells in zip(*table, strict=True):
        longest = max(map(width_of, cells), default=0)
        words = max((width_of(word) for cell in cells for word in cell.split()), default=0)
        widths.append(min(max(width_of(name), longest), width))
        least.append(max(*map(width_of, _broken(name, 1)), words, min(longest, NARROWEST_TEXT)))
    room = width - len(GAP) * (len(widths) - 1)
    if sum(least) > room:
        return None
    while sum(widths) > room:
        widest = max((k for k, low in enumerate(least) if widths[k] > low), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _split_columns(table: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of each of several tables that fit, all with the first; none where one is too wide even so."""
    parts: list[list[int]] = []
    for k in range(1, len(table[0])):
        for part in ([*parts[-1], k] if parts else [0, k], [0, k]):
            if _column_widths([[row[j] for j in part] for row in table], width) is not None:
                parts[-1 if parts and len(part) > 2 else len(parts) :] = [part]
                break
        else:
            return []
    return parts


def print_line(line: object = "") -> None:
    """One line of the result on stdout."""
    print(inert(str(line)))


def print_text(*sentences: object) -> None:
    """Sentences of the result on stdout, each in lines that fit."""
    for sentence in sentences:
        print("\n".join(wrap(str(sentence))))


def print_lines(lines: Iterable[object]) -> None:
    """Lines of the result, each of them one."""
    for line in lines:
        print_line(line)


VERDICT_COLORS = {"PASS": 32, "FAIL": 31, "INCONCLUSIVE": 33}  # green, red, yellow
_VERDICT = re.compile(
    "|".join(f"{a}(PASS|FAIL|INCONCLUSIVE){b}" for a, b in (("^", "(?=  )"), ("(?<=^  )", "(?= )"), ("(?<=: )", "$")))
)


def print_verdicts(lines: Iterable[str]) -> None:
    """Lines that begin or end with a verdict, which has its color on a terminal that wants any (no-color.org)."""
    colored = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    for line in map(inert, lines):
        print(_VERDICT.sub(lambda m: f"\033[{VERDICT_COLORS[m[0]]}m{m[0]}\033[0m", line) if colored else line)


def say(line: str) -> None:
    """One line besides the result, on stderr; on a terminal it is broken between words, and takes the place of a count
    that is drawn there."""
    text = ERASED + "\n".join(wrap(line)) if is_terminal(sys.stderr) else inert(line)
    print(text, file=sys.stderr, flush=True)
