"""The guide: its generated pages are what the code says, its schemas hold of what is written, its links lead on."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

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


def test_a_page_that_says_something_else_is_found(generate: Any) -> None:
    texts = generate.made()
    page = DOCS / "reference" / "recipe.md"
    assert generate.stale(texts | {page: texts[page].replace("`epochs`", "`epoch`")}) == ["reference/recipe.md"]
    del texts[page]
    assert generate.stale(texts) == ["reference/recipe.md"]


def test_every_key_of_a_recipe_and_every_option_has_its_row() -> None:
    from edgecnn.recipe.schema import Recipe, settings_rows

    page = (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8")
    keys = [key for key, _ in settings_rows(Recipe())]
    assert len(keys) > 80
    assert [key for key in keys if f"| `{key.rpartition('.')[2]}` |" not in page] == []
    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert commands.count("\n## edgecnn ") > 30
    assert "| `--precision` fp16\\|int8 | required |" in commands


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
