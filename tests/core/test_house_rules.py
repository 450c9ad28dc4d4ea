"""The rules that keep the project readable, checked against the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "edgecnn").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 400, 60


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_budgets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES, "a file that outgrows its budget becomes a folder of its name"
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno is not None}
    assert {name: n for name, n in long.items() if n > FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_of_modules(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert path.stem not in imported, "no module bears the name of a module that it imports"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_and_public_function_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), "a module docstring"
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []


def test_errors_are_drawn_as_they_are() -> None:
    """The tree in the docstring of errors.py names every class, below its base."""
    import edgecnn.errors as errors

    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.EdgecnnError)}
    drawn = re.findall(r"^ {4}([| `-]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    assert {name for _, name in drawn} == classes.keys()
    path: list[str] = []
    for indent, name in drawn:
        depth = (len(indent) + 2) // 3
        path = [*path[:depth], name]
        if depth:
            assert classes[name].__base__ is classes[path[depth - 1]], name


def test_no_path_of_a_machine_and_no_left_over() -> None:
    files = [
        p for p in ROOT.rglob("*") if p.suffix in {".py", ".md", ".toml", ".yml", ".yaml"} and ".venv" not in p.parts
    ]
    assert len(files) > 40
    words = re.compile(r"(/home/\w+|/root/)|\b(TODO|FIXME|XXX)\b")
    found = {
        str(p.relative_to(ROOT)): hit.group(0)
        for p in files
        if p.name != Path(__file__).name and (hit := words.search(p.read_text(encoding="utf-8", errors="replace")))
    }
    assert found == {}


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(d, m) for d in documents for m in re.findall(r"\]\((?!https?:|#)([^)#]+)", d.read_text(encoding="utf-8"))]
    assert len(links) > 5
    assert [f"{d.name}: {link}" for d, link in links if not (d.parent / link).exists()] == []
