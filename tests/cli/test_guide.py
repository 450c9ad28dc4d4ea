"""The guide: its generated pages are what the code says, its schemas hold of what is written, its links lead on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from edgecnn.cli.app import application
from edgecnn.recipe.load import load_recipe
from edgecnn.records import parse_toml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SCHEMAS = DOCS / "schema"


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    return import_module("generate")


def problems(name: str, content: Any) -> list[str]:
    """What a published schema says against a content."""
    from jsonschema import Draft202012Validator

    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return [f"{'.'.join(map(str, e.path))}: {e.message}" for e in Draft202012Validator(schema).iter_errors(content)]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_generated_pages_and_schemas_are_what_the_code_says(generate: Any) -> None:
    texts = generate.made()
    assert len(texts) > 12
    assert generate.stale(texts) == [], "make docs"
    page = DOCS / "reference" / "recipe.md"
    assert generate.stale(texts | {page: texts[page].replace("`epochs`", "`epoch`")}) == ["reference/recipe.md"]
    del texts[page]
    assert generate.stale(texts) == ["reference/recipe.md"], "a page that nothing makes"


def test_every_key_of_a_recipe_and_every_option_has_its_row() -> None:
    from edgecnn.recipe.schema import Recipe, settings_rows

    page = (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8")
    keys = [key for key, _ in settings_rows(Recipe())]
    assert len(keys) > 80
    assert [key for key in keys if f"| `{key.rpartition('.')[2]}` |" not in page] == []
    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert commands.count("\n## edgecnn ") > 30
    assert "| `--precision` fp16\\|int8 | required |" in commands


def test_every_page_stands_in_the_index_once() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.name != "README.md"]
    assert len(pages) > 20
    assert [page for page in pages if f"]({page})" not in index] == []
    for name in ("llms.txt", "skills/edgecnn/SKILL.md"):
        assert "docs/README.md" in (ROOT / name).read_text(encoding="utf-8")
    assert "docs/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def chart_leaves(text: str) -> tuple[dict[str, str], set[str]]:
    """The commands in a page's Mermaid charts by their nodes, and the nodes from which nothing leads on."""
    charts = "\n".join(re.findall(r"^```mermaid\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    commands = dict(re.findall(r'(\w+)\["(.*?)"\]', charts))
    ends = re.findall(r"^ *(\w+)\S*.*?--> (\w+)", charts, re.MULTILINE)
    return commands, {after for _, after in ends} - {before for before, _ in ends}


def test_a_chart_leads_to_commands_that_exist() -> None:
    commands, leaves = chart_leaves((DOCS / "int8-lost-accuracy.md").read_text(encoding="utf-8"))
    assert len(leaves) > 7
    assert leaves <= commands.keys()
    known = typer.main.get_command(application())
    for command in commands.values():
        program, name, *arguments = shlex.split(command.replace("#quot;", '"'))
        assert program == "edgecnn"
        given = known.commands[name].make_context(name, arguments).params
        assert load_recipe("lenet5-digits", given.get("set_") or ())


def unknown_words(command: str, known: Any) -> list[str]:
    """What of a command as a page writes it is none: its name, or an option."""
    words = command.split()[1:]
    while words and (inner := getattr(known, "commands", None)) is not None:
        if not words[0][0].islower():  # a placeholder
            return []
        if words[0] not in inner:
            return [words[0]]
        known = inner[words.pop(0)]
    options = {word for p in known.params for word in (*p.opts, *p.secondary_opts)} | {"--help"}
    return [word for word in words if re.fullmatch(r"-{1,2}[a-z][\w-]*", word) and word not in options]


def test_commands_within_sentences_exist() -> None:
    known = typer.main.get_command(application())
    pages = [
        ROOT / "README.md",
        ROOT / "llms.txt",
        *sorted(DOCS.rglob("*.md")),
        *sorted((ROOT / "skills").rglob("*.md")),
    ]
    found = [(p, code) for p in pages for code in re.findall(r"`(edgecnn [a-z][^`]*)`", p.read_text(encoding="utf-8"))]
    assert len(found) > 60
    assert {code: wrong for _, code in found if (wrong := unknown_words(code, known))} == {}
    assert unknown_words("edgecnn recipe show X --json --yaml", known) == ["--yaml"]
    assert unknown_words("edgecnn recipe shows X", known) == ["shows"]


def test_schemas_are_schemas() -> None:
    from jsonschema import Draft202012Validator

    found = sorted(SCHEMAS.iterdir())
    assert len(found) > 10
    for path in found:
        Draft202012Validator.check_schema(read(path))


def test_recipes_fit_their_schema() -> None:
    found = sorted((ROOT / "recipes").glob("*.toml"))
    assert len(found) > 10
    for path in found:
        assert problems("recipe", parse_toml(path.read_text(encoding="utf-8"))) == [], path.name
    for wrong in ({"train": {"epoch": 3}}, {"train": {"epochs": -1}}, {"precisions": []}, {"input": {"size": [8]}}):
        assert problems("recipe", wrong), wrong


@pytest.mark.torch
def test_what_a_run_writes_fits_its_schemas(digits: Path, edgecnn: Callable[..., Any]) -> None:
    sidecars = [path for path in digits.rglob("*.json") if path.with_suffix("").exists()]
    assert len(sidecars) > 10
    for path in sidecars:
        assert problems("sidecar", read(path)) == [], path
    files = {
        "accuracy": "*.accuracy.json",
        "latency": "latency.json",
        "verdict": "verdict.json",
        "report": "report.json",
    }
    for name, pattern in files.items():
        found = sorted((digits / "cpu").glob(pattern))
        assert found, pattern
        for path in found:
            assert problems(name, read(path)) == [], path
            assert problems("sidecar", read(path)["provenance"]) == [], path
    for name, call in {"explanation": ("explain", digits), "comparison": ("compare", digits, digits)}.items():
        assert problems(name, json.loads(edgecnn(*call, "--json").out)) == [], name


@pytest.mark.torch
def test_a_result_with_another_key_does_not_fit(digits: Path) -> None:
    verdict = read(digits / "cpu" / "verdict.json")
    for key in verdict:
        if key != "provenance":
            assert problems("verdict", {k: v for k, v in verdict.items() if k != key}), key
    assert problems("verdict", verdict | {"judgements": []})
    assert problems("verdict", verdict | {"verdict": "pass"})
    latency = read(digits / "cpu" / "latency.json")
    assert problems("latency", {**latency, "measurements": [{**latency["measurements"][0], "mode": "fast"}]})
