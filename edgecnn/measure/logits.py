"""Logits as they come in: in memory, or in a journal from which a killed run goes on."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from edgecnn.artifact.journal import open_journal
from edgecnn.records import parse_json
from edgecnn.session import Array

_MOST_CLASSES = 1 << 24


class Logits:
    """Rows of logits with the position of their image: in memory, or appended to a journal file.

    The journal is a line of JSON (the key and the record's form) and then one record per image, which ends with the
    CRC-32 of what is before it. One process at a time has it: raises `MeasurementError` for another.
    """

    def __init__(self, journal: Path | None, key: str) -> None:
        self.key = key
        self.positions: list[int] = []
        self.contents: list[str] = []
        self._rows: list[Array] = []
        self._sha256s: list[str] = []
        self._offset, self._classes = 0, 0
        self._file = None if journal is None else open_journal(journal)
        if self._file is not None:
            self._resume(self._file)

    @property
    def next(self) -> int:
        """The position after the last one that is there."""
        return self.positions[-1] + 1 if self.positions else 0

    def add(self, positions: list[int], rows: Array, sha256s: Sequence[str], contents: Sequence[str]) -> None:
        """Append the logits of one batch, the identities of its images, and the hashes of what was read for them."""
        self.positions += positions
        self._sha256s += sha256s
        if self._file is None:
            self._rows.append(rows)
            return
        if not self._classes:
            self._begin(self._file, rows.shape[1])
        records = np.zeros(len(rows), self._record())
        for name, value in (("position", positions), ("logits", rows), ("sha256", sha256s), ("content", contents)):
            records[name] = value
        records["crc32"] = [zlib.crc32(row) for row in _checked(records)]
        self._file.write(records.tobytes())
        self._file.flush()

    def cut(self, position: int) -> None:
        """Forget the rows of the images from `position` on."""
        kept = sum(p < position for p in self.positions)
        del self.positions[kept:], self._sha256s[kept:], self.contents[kept:]
        if self._file is not None:
            self._file.truncate(self._offset + kept * self._record().itemsize)

    def array(self) -> Array:
        """All rows, in order; read from the journal through the page cache."""
        if self._file is None:
            return np.concatenate(self._rows)
        records = np.memmap(self._file, self._record(), "r", self._offset, (len(self.positions),))
        return records["logits"]

    def sha256s(self) -> tuple[str, ...]:
        """The identity of each row's image."""
        return tuple(self._sha256s)

    def __enter__(self) -> Logits:
        return self

    def __exit__(self, *unused: object) -> None:
        self._rows = []
        if self._file is not None:
            with self._file:
                if not self.positions:
                    Path(self._file.name).unlink(missing_ok=True)

    def _record(self) -> np.dtype[np.void]:
        fields = [("position", "<i8"), ("sha256", "S64"), ("content", "S64"), ("logits", "<f4", (self._classes,))]
        return np.dtype([*fields, ("crc32", "<u4")])

    def _header(self, classes: int) -> bytes:
        return (json.dumps({"key": self.key, "classes": classes, "checksum": "crc32"}) + "\n").encode()

    def _begin(self, file: BinaryIO, classes: int) -> None:
        self._classes = classes
        header = self._header(classes)
        self._offset = len(header)
        file.truncate(0)
        file.write(header)

    def _resume(self, file: BinaryIO) -> None:
        """Take over the records of an earlier run with the same key, up to the first that is not whole; anything else
        is overwritten."""
        file.seek(0)
        header = file.readline(1 << 16)
        try:
            classes = parse_json(header)["classes"]
        except (ValueError, KeyError, TypeError):
            return
        if type(classes) is not int or not 0 < classes <= _MOST_CLASSES or header != self._header(classes):
            return
        self._classes, self._offset = classes, len(header)
        record = self._record()
        whole = (os.fstat(file.fileno()).st_size - self._offset) // record.itemsize
        if whole:
            records = np.memmap(file, record, "r", self._offset, (whole,))
            sums = zip(_checked(records), records["crc32"].tolist(), strict=True)
            whole = next((k for k, (row, known) in enumerate(sums) if zlib.crc32(row) != known), whole)
            self.positions = records["position"][:whole].tolist()
            self._sha256s = [digest.decode() for digest in records["sha256"][:whole].tolist()]
            self.contents = [digest.decode() for digest in records["content"][:whole].tolist()]
        file.truncate(self._offset + whole * record.itemsize)
        if not whole:  # nothing says that the number of classes is not what is damaged
            self._classes = 0


def _checked(records: npt.NDArray[np.void]) -> Iterable[memoryview]:
    """The bytes of each record that its checksum is of."""
    size = records.dtype.itemsize
    content = memoryview(records.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    return (content[k * size : (k + 1) * size - 4] for k in range(len(records)))
