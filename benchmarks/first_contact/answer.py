"""A question, its answer as it comes, and where both work.

Each question is a function that runs in a process of its own. It writes what it finds part by part, so that what was
found before a crash is kept, and returns a reason where the machine lacks what the question is about."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.errors import EdgecnnError

PRECISIONS = ("fp32", "fp16", "int8")
LARGEST = 8  # images in a batch
ANSWERED, ABSENT, FAILED, CRASHED, LATE, NOT_ASKED = "answered", "absent", "failed", "crashed", "no end", "not asked"


class Answer:
    """The parts of one answer, kept in a file as they come; `now` is the part that is being asked."""

    def __init__(self, path: Path) -> None:
        self._path, self.found = path, dict[str, Any]()

    def put(self, key: str, value: Any) -> Any:
        """Keep a part."""
        self.found[key] = value
        self._write()
        return value

    def ask(self, key: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Keep what a call returns, or the words of its error; returns None after one, so that the rest is asked."""
        self.put("now", key)
        try:
            value = call(*arguments, **named)
        except EdgecnnError as exc:
            self.put(key, {"error": exc.message, "hint": exc.hint})
            value = None
        except Exception as exc:  # noqa: BLE001 - of a library that never ran here, or a bug of ours: it is the answer
            self.put(key, {"error": f"{type(exc).__name__}: {exc}", "hint": "a bug: report it"})
            value = None
        else:
            self.put(key, value)
        self.found.pop("now")
        return value

    def close(self) -> None:
        """Nothing more is asked."""
        self.found.pop("now", None)
        self._write()

    def _write(self) -> None:
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps(self.found, default=str), encoding="utf-8")
        temporary.replace(self._path)


def failed_parts(found: Mapping[str, Any]) -> list[str]:
    """The parts of an answer that ended in an error."""
    return [key for key, value in found.items() if isinstance(value, dict) and "error" in value]


@dataclass(frozen=True)
class Work:
    """Where a contact works, and how long a latency is measured (seconds)."""

    folder: Path
    graphs: Path
    small: str
    large: str
    seconds: float
    recipe: str
    python: str

    def graph(self, network: str, precision: str) -> Path:
        """A network's graph."""
        return self.graphs / f"{network}.{precision}.onnx"

    def engine(self, name: str) -> Path:
        """A file that the questions share."""
        (self.folder / "engines").mkdir(exist_ok=True)
        return self.folder / "engines" / name

    def earlier(self, key: str) -> Mapping[str, Any]:
        """What another question found; {} where it was not asked."""
        path = self.folder / "answers" / f"{key}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@dataclass(frozen=True)
class Question:
    """One question: its `key` in the JSON file, what it `asks`, what it `needs`, its time limit (seconds), and which
    `figures` of the answer (dotted) stand in the table of the documentation."""

    key: str
    asks: str
    ask: Callable[[Work, Answer], str | None]
    needs: tuple[str, ...] = ()
    limit_s: float = 60
    figures: tuple[str, ...] = ()
