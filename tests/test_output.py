"""Text that is shown cannot act."""

from __future__ import annotations

import ast
import json
import random
import unicodedata
from pathlib import Path

import pytest

from edgecnn.output import inert, inert_html, inert_json, print_line, say

MARKS = {"\u061c", *map(chr, range(0x200E, 0x2010)), *map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2066, 0x206A))}
PRINTING = {"output.py", "cli/printing.py", "cli/progress.py"}  # a JSON document, a line that is drawn again


def acts(character: str) -> bool:
    return unicodedata.category(character) == "Cc" or character in MARKS


def test_no_character_that_acts_is_left_and_no_other_is_changed() -> None:
    for character in map(chr, [*range(0xD800), *range(0xE000, 0x11000), 0x1F600]):
        shown = inert(f"a{character}b")
        if acts(character):
            assert shown.isascii(), hex(ord(character))
            assert shown.isprintable(), hex(ord(character))
        elif character != "\ufeff":
            assert shown == f"a{character}b", hex(ord(character))


def test_json_reads_back_the_same() -> None:
    rng = random.Random(0)
    for _ in range(200):
        name = "".join(chr(rng.choice([*range(256), 0x202E, 0x2028, 0x2066, 0xE9, 0x1F600])) for _ in range(12))
        written = inert_json({name: [name]}, indent=1)
        assert json.loads(written) == {name: [name]}
        assert not any(map(acts, written.replace("\n", "")))


def test_html_is_text() -> None:
    assert inert_html("<b>\x1b'\"&\n") == "&lt;b&gt;\\x1b&#x27;&quot;&amp;\n"


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\nverdict: PASS\r\x1b[2J")
    say("b\n\u202e")
    assert capsys.readouterr() == ("a\\nverdict: PASS\\r\\x1b[2J\n", "b\\n\\u202e\n")


def prints(source: str) -> list[int]:
    """Lines in which a program writes to a standard stream by itself."""
    words = ("print", "sys.stdout.write", "sys.stderr.write", "traceback.print_exc", "typer.echo", "typer.secho")
    if not any(word in source for word in words):
        return []
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if ast.unparse(call.func) in words]


def test_everything_is_printed_through_it(root: Path) -> None:
    sources = {str(path.relative_to(root / "edgecnn")): path for path in (root / "edgecnn").rglob("*.py")}
    assert sources.keys() > PRINTING
    found = {name: prints(path.read_text(encoding="utf-8")) for name, path in sources.items() if name not in PRINTING}
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert prints("import sys\nprint(1)\nsys.stderr.write('a')") == [2, 3]
