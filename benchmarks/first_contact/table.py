"""What the machines answered, as one table in a document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_contact.answer import ABSENT, ANSWERED, NOT_ASKED, Question
from benchmarks.first_contact.questions import QUESTIONS

LONGEST = 80  # characters of a reason
MARKS = "<!-- CONTACT -->", "<!-- /CONTACT -->"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every file of a machine with a GPU, by its name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [one for one in found if one["gpu"]]


def by_gpu(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One document for each GPU: what is absent in one environment may have been answered in another."""
    found: dict[str, dict[str, Any]] = {}
    for one in results:
        told = found.setdefault(one["gpu"], {**one, "questions": {}})["questions"]
        for key, row in one["questions"].items():
            if key not in told or told[key]["state"] in (ABSENT, NOT_ASKED):
                told[key] = row
    return list(found.values())


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The questions in Markdown, with what each GPU answered."""
    results = by_gpu(results)
    names = [f"{one['gpu']} ({one['compute_capability']})" for one in results] or ["answers"]
    lines = ["| key | what is asked | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for question in QUESTIONS:
        cells = [_cell(question, one["questions"].get(question.key)) for one in results] or ["none yet"]
        lines.append(f"| `{question.key}` | {question.asks} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(question: Question, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NOT_ASKED
    if row["state"] != ANSWERED:
        why = f"{row['state']}: {row['why']}".replace("|", "/").replace("\n", " ")
        return why if len(why) <= LONGEST else f"{why[: LONGEST - 4]} ..."
    figures = [(figure, _at(row.get("answer", {}), figure)) for figure in question.figures]
    shown = [f"{figure} {_short(value)}" for figure, value in figures if value is not None]
    shown += [f"refused: {', '.join(row['refused'])}"] if row.get("refused") else []
    return ", ".join(shown).replace("|", "/") or ANSWERED


def _at(value: Any, path: str) -> Any:
    """What stands at a dotted path; None where nothing does."""
    for part in path.split("."):
        if isinstance(value, list):
            value = value[int(part)] if part.isdigit() and int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def put_table(text: str, path: Path) -> None:
    """Replace what stands between the marks in `path`."""
    before, mark, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    if not mark:
        raise SystemExit(f"{path}: has no {MARKS[0]}")
    path.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")
