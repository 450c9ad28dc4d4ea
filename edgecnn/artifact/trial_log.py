"""Trials that are done, a line of JSON each: what a killed search goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from edgecnn.artifact.journal import open_journal
from edgecnn.artifact.temporary import disk_errors
from edgecnn.output import inert_json
from edgecnn.records import parse_json

_Line = dict[str, object]


class TrialLog:
    """Lines in the file `path`, a context manager. Those that an earlier run with the same `key` left are there again,
    up to the first one that is not whole; a file of another key begins anew. One without trials does not stay."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._file = path, open_journal(path)
        self._found: list[_Line] = []
        end = 0
        self._file.seek(0)
        for text in self._file:
            line = _parsed(text)
            if line is None or (end == 0 and line != {"key": key}):
                break
            end += len(text)
            self._found.append(line)
        with disk_errors(path):
            self._file.truncate(end)
        if not self._found:
            self._write({"key": key})
        self._empty = len(self._found) < 2

    def __iter__(self) -> Iterator[_Line]:
        """The lines of before, the first one first."""
        return iter(self._found[1:])

    def append(self, line: _Line) -> None:
        """Write one more; raises `WriteError`."""
        self._write(line)
        self._empty = False

    def _write(self, line: _Line) -> None:
        with disk_errors(self._path):
            self._file.write((inert_json(line) + "\n").encode())
            self._file.flush()

    def remove(self) -> None:
        """What they were for is done."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> TrialLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if self._empty:
                self.remove()


def _parsed(text: bytes) -> _Line | None:
    if not text.endswith(b"\n"):
        return None
    try:
        line = parse_json(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
