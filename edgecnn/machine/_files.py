"""The small files in which the operating system tells facts; `ROOT` is where they are mounted."""

from __future__ import annotations

import math
from pathlib import Path

ROOT = Path("/")


def text_of(path: Path) -> str:
    """What stands in a file, without the white space and zero bytes at its ends; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def number_of(path: Path) -> float | None:
    """The number that stands in a file; None where there is none that is finite."""
    try:
        found = float(text_of(path))
    except ValueError:
        return None
    return found if math.isfinite(found) else None
