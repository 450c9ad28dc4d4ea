"""What a killed step goes on from: blocks appended to a file, each with its checksum."""

from __future__ import annotations

import fcntl
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgecnn.artifact.temporary import disk_errors
from edgecnn.errors import MeasurementError

_FRAME = struct.Struct("<Q32s")  # the length of a block, and its sha256


def open_journal(path: Path) -> BinaryIO:
    """The file of a journal, for this process alone; what is written goes to its end. Raises `MeasurementError` where
    another process has it, `WriteError` where it cannot be written."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.close()
            raise MeasurementError(
                f"{path}: another process is measuring into it", "wait for it, or name another output with -o"
            ) from exc
        except OSError:
            file.close()
            raise
    return file


class Journal:
    """Blocks of bytes in the file `path`, a context manager. Those that an earlier run with the same `key` left are
    there again, up to the first one that is not whole; a file without blocks does not stay."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._file = path, open_journal(path)
        self._header = (json.dumps({"key": key}) + "\n").encode()
        self._ends = [0]
        self._file.seek(0)
        if self._file.readline(len(self._header)) == self._header:
            self._ends = [len(self._header)]

    def blocks(self) -> Iterator[bytes]:
        """The whole blocks, the first one first; what is behind the last one that was taken is cut off by `append`."""
        if not self._ends[0]:
            return
        self._ends = self._ends[:1]
        while True:
            self._file.seek(self._ends[-1])
            frame = self._file.read(_FRAME.size)
            if len(frame) < _FRAME.size:
                return
            length, digest = _FRAME.unpack(frame)
            if length > self._path.stat().st_size:
                return
            block = self._file.read(length)
            if len(block) != length or hashlib.sha256(block).digest() != digest:
                return
            self._ends.append(self._ends[-1] + _FRAME.size + length)
            yield block

    def keep(self, count: int) -> None:
        """Of the blocks that were taken, the first `count` stay."""
        del self._ends[count + 1 :]

    def append(self, block: bytes) -> None:
        """Write one more block; raises `WriteError`."""
        with disk_errors(self._path, len(block)):
            self._file.truncate(self._ends[-1])
            if not self._ends[0]:
                self._file.write(self._header)
                self._ends = [len(self._header)]
            self._file.write(_FRAME.pack(len(block), hashlib.sha256(block).digest()) + block)
            self._file.flush()
        self._ends.append(self._ends[-1] + _FRAME.size + len(block))

    def remove(self) -> None:
        """What it was for is done."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if len(self._ends) == 1:
                self.remove()
