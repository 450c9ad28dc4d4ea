"""Folders as they were when they were listed first: one pass over them for a command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

_Found = TypeVar("_Found")
_kept: dict[Hashable, object] | None = None


class Entry(NamedTuple):
    """What lies in a folder; a link to a folder is one."""

    name: str
    is_folder: bool
    is_link: bool


@contextlib.contextmanager
def listing_each_folder_once() -> Iterator[None]:
    """Within, a folder is what it was when it was listed first: a command's steps see the same images, and a share on
    the network is not walked by each of them."""
    global _kept
    before = _kept
    _kept = {} if before is None else before
    try:
        yield
    finally:
        _kept = before


def once(key: Hashable, look: Callable[[], _Found]) -> _Found:
    """What `look` finds; within `listing_each_folder_once` what it found first."""
    if _kept is None:
        return look()
    if key not in _kept:
        _kept[key] = look()
    return cast(_Found, _kept[key])


def entries(folder: Path) -> tuple[Entry, ...]:
    """What lies in `folder`; raises `OSError`."""
    return once(("entries", str(folder)), lambda: _scan(folder))


def _scan(folder: Path) -> tuple[Entry, ...]:
    with os.scandir(folder) as found:
        return tuple(Entry(e.name, e.is_dir(), e.is_symlink()) for e in found)
