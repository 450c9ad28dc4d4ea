"""Golden files: small JSON under `golden/`; `python -m tests.pinned.rewrite` rewrites them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"


def read_golden(name: str) -> dict[str, Any]:
    """The content of `golden/NAME.json`; empty where it is not made yet."""
    path = FOLDER / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_golden(name: str, content: dict[str, Any]) -> None:
    """Replace `golden/NAME.json`."""
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One line for each place in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            where = f"{path} / {key}" if path else key
            if key not in new:
                yield f"{where}: gone (was {_short(old[key])})"
            elif key not in old:
                yield f"{where}: new ({_short(new[key])})"
            else:
                yield from differences(old[key], new[key], where)
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= 160 else f"{text[:157]}..."
