"""How often folders are listed and files are looked at, however that is done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Looks(NamedTuple):
    """By path below the root: `scandir` and `listdir` of each folder, `stat` and `lstat` of each file or folder."""

    listed: Counter[str]
    stats: Counter[str]


@contextmanager
def counted_looks(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    """What this process asks of `root` and what is below it."""
    looks, inside = Looks(Counter(), Counter()), f"{root}{os.sep}"

    def count(function: Callable[..., Any], found: Counter[str]) -> Callable[..., Any]:
        def counted(path: Any = ".", *more: Any, **options: Any) -> Any:
            where = "" if isinstance(path, int) else os.fspath(path)
            if isinstance(where, str) and (where == str(root) or where.startswith(inside)):
                found[where[len(inside) :] or "."] += 1
            return function(path, *more, **options)

        return counted

    with monkeypatch.context() as patch:
        for name, found in (
            ("scandir", looks.listed),
            ("listdir", looks.listed),
            ("stat", looks.stats),
            ("lstat", looks.stats),
        ):
            patch.setattr(os, name, count(getattr(os, name), found))
        yield looks
