"""A log that is only appended to: lines of JSON, each with its checksum as its last key."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias

from edgecnn.artifact.journal import open_journal
from edgecnn.artifact.temporary import disk_errors
from edgecnn.errors import ArtifactError
from edgecnn.limits import open_regular
from edgecnn.output import inert_json
from edgecnn.records import parse_json

Line: TypeAlias = dict[str, object]
_KEY = b', "crc32": "'
_FOLLOWED = "followed"  # of a line to which the next one belongs
LONGEST_LINE = 1 << 26


class CheckedLines:
    """The file `path`, to append to, a context manager; what a killed process left unfinished at its end is cut off
    when the first line is written. `start` is that of its first line. One process at a time has it. Raises
    `ArtifactError` for a file of anything else, `WriteError` where it cannot be written."""

    def __init__(self, path: Path, start: bytes) -> None:
        self._path, self._start, self._file = path, start, open_journal(path)
        self._end = 0

    def lines(self) -> Iterator[Line]:
        """The lines of before, the first one first; to be read to the end before anything is appended."""
        self._file.seek(0)
        for line, end in _whole_lines(self._file, self._path, self._start):
            self._end = end
            yield line

    def append(self, *lines: Line) -> None:
        """Write one or more, which are read back together or not at all; raises `WriteError`."""
        marked = [*({**line, _FOLLOWED: True} for line in lines[:-1]), *lines[-1:]]
        bodies = [inert_json(line).encode()[:-1] for line in marked]
        text = b"".join(body + _KEY + f'{zlib.crc32(body):08x}"}}\n'.encode() for body in bodies)
        with disk_errors(self._path, len(text)):
            self._file.truncate(self._end)
            self._file.write(text)
            self._file.flush()
        self._end += len(text)

    def __enter__(self) -> CheckedLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if not self._end and not self._path.stat().st_size:
                self._path.unlink(missing_ok=True)


def read_lines(path: Path, start: bytes) -> Iterator[Line]:
    """The lines of a log that another process may be writing, without one that is not finished; raises
    `ArtifactError`."""
    try:
        with open_regular(path) as file:
            for line, _ in _whole_lines(file, path, start):
                yield line
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror or exc}", "name the log of a monitor") from exc


def _whole_lines(file: BinaryIO, path: Path, start: bytes) -> Iterator[tuple[Line, int]]:
    number, read, end = 0, 0, 0
    waiting: list[Line] = []
    while text := file.readline(LONGEST_LINE):
        number, whole = number + 1, text.endswith(b"\n")
        body, key, rest = text.rpartition(_KEY)
        begun = number > 1 or text[: len(start)] == start[: len(text)]
        if not whole and begun and len(text) < LONGEST_LINE:
            return  # a killed process's last one
        if not key or rest != f'{zlib.crc32(body):08x}"}}\n'.encode():
            told = (
                "line 1 is not that of a log" if number == 1 else f"line {number} is damaged: its checksum is another"
            )
            raise ArtifactError(f"{path}: {told}", "name the log of a monitor; one that was edited is not continued")
        try:
            line = parse_json(body + b"}")
        except ValueError as exc:
            raise ArtifactError(
                f"{path}: line {number} is not valid JSON ({exc})", "name the log of a monitor"
            ) from exc
        read += len(text)
        waiting.append(line)
        if not line.pop(_FOLLOWED, False):
            end = read
            yield from ((one, end) for one in waiting)
            waiting = []
