"""Where logits come from: JSON lines, bare float32, arrays. Each is cut into pieces, one a row, and pieces are read."""

from __future__ import annotations

import datetime
import math
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np

from edgecnn.errors import ArtifactError, DataError
from edgecnn.inspection.monitor.counts import Batch
from edgecnn.inspection.monitor.log import flaw_of
from edgecnn.limits import DAMAGED_ZIP, open_regular, require_array, require_arrays
from edgecnn.measure.input_statistics import STATISTICS
from edgecnn.records import mapping_from_json, record_from_mapping
from edgecnn.results.monitor import Network
from edgecnn.session import Array

ROWS_AT_ONCE = 1024
LONGEST_ROW = 1 << 26  # bytes
LONGEST_NAME = 1024  # characters
LATEST = 253402300800.0  # the year 10 000, in seconds since 1970
MOST = 1e300  # of a statistic, so that their sum is finite
_READ = 1 << 16
_Row: TypeAlias = "Mapping[str, Any]"  # of a line, by its keys
_ALLOWED = ("logits", "time", "image", *STATISTICS)
_FORM = f"a row has {', '.join(_ALLOWED)}, of which only logits are needed"


class Source(Protocol):
    """Rows from one place. `kept` where they are still there when they are read again, as those of a file."""

    name: str
    kept: bool

    def pieces(self, wait_s: float) -> Iterator[list[bytes]]:
        """Rows as bytes, some at a time; none where nothing came for `wait_s`."""
        ...

    def close(self) -> None: ...

    def read(self, first: int, pieces: Sequence[bytes]) -> tuple[Network | None, Batch]:
        """What stands in pieces, the number `first` in front; with them whose rows those are, where that is told.
        Raises `DataError`."""
        ...


def open_source(source: str, classes: int | None) -> Source:
    """The rows of `source`: "-" for standard input, an array (.npy, .npz), else lines of JSON, or with `classes` bare
    float32, so many a row. Raises `ArtifactError`."""
    if source == "-":
        if sys.stdin is None:
            raise DataError("standard input: is closed", "pipe the rows into it: `... | edgecnn monitor - -o X.jsonl`")
        return _stream("standard input", os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0), False, classes)
    path = Path(source)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return ArrayRows(path)
    try:
        if path.is_file():
            return _stream(source, open_regular(path), True, classes)
        return _stream(source, path.open("rb", buffering=0), False, classes)
    except OSError as exc:
        raise ArtifactError(
            f"{source}: cannot be read: {exc.strerror or exc}", "name a file, a named pipe, or - for standard input"
        ) from exc


def _stream(name: str, file: BinaryIO, kept: bool, classes: int | None) -> Source:
    return JsonRows(name, file, kept) if classes is None else FloatRows(name, file, kept, classes)


class _Stream:
    def __init__(self, name: str, file: BinaryIO, kept: bool) -> None:
        self.name, self.kept, self._file = name, kept, file

    def pieces(self, wait_s: float) -> Iterator[list[bytes]]:
        rest = bytearray()
        if self.kept:
            self._file.seek(0)
        while True:
            if not self.kept and not select.select([self._file], [], [], wait_s)[0]:
                yield []
                continue
            try:
                part = os.read(self._file.fileno(), _READ)
            except OSError as exc:
                raise ArtifactError(
                    f"{self.name}: cannot be read: {exc.strerror or exc}", "look at its writer"
                ) from exc
            rest += part
            found = self._cut(rest, not part) if not part or self._may_end(part, rest) else []
            for k in range(0, len(found), ROWS_AT_ONCE):
                yield found[k : k + ROWS_AT_ONCE]
            if len(rest) > LONGEST_ROW:
                raise DataError(f"{self.name}: a row of more than {LONGEST_ROW} bytes", "end each row with a new line")
            if not part:
                return

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _may_end(self, part: bytes, rest: bytearray) -> bool:
        """Whether a row ends in the `part` that came last."""
        raise NotImplementedError

    def _cut(self, rest: bytearray, ended: bool) -> list[bytes]:
        """Take the rows out of what came."""
        raise NotImplementedError


class JsonRows(_Stream):
    """One JSON object a line: `logits`, and `time`, `image` and statistics of the input where they are known. A line
    with `engine` says whose the lines are."""

    def _may_end(self, part: bytes, rest: bytearray) -> bool:
        return b"\n" in part

    def _cut(self, rest: bytearray, ended: bool) -> list[bytes]:
        *found, last = bytes(rest).split(b"\n")
        rest[:] = b"" if ended else last
        return [*found, last] if ended and last else found

    def read(self, first: int, pieces: Sequence[bytes]) -> tuple[Network | None, Batch]:
        network, rows, now = None, list[_Row](), time.time()
        for number, piece in enumerate(pieces, first + 1):
            if not piece.strip():
                continue
            where = f"{self.name}: line {number}"
            content = mapping_from_json(piece, where, _FORM)
            if "engine" in content:
                found = record_from_mapping(
                    Network, content, where, "begin with the line that `edgecnn predict` writes"
                )
                if (flaw := flaw_of(found)) is not None:
                    raise DataError(f"{where}: {flaw}", "begin with the line that `edgecnn predict` writes")
                if network not in (None, found):
                    raise DataError(f"{where}: rows of another engine", "one log is that of one engine: name another")
                network = found
            else:
                rows.append(_row(content, where, now, len(rows[0]["logits"]) if rows else None))
        columns = len(rows[0]["logits"]) if rows else 0
        values = {name: np.array([row[name] for row in rows], np.float64) for name in STATISTICS}
        with np.errstate(over="ignore"):
            logits = (
                np.array([row["logits"] for row in rows], np.float64).reshape(len(rows), columns).astype(np.float32)
            )
        return network, Batch(logits, [row["time"] for row in rows], [row["image"] for row in rows], values)


class FloatRows(_Stream):
    """Logits alone, little-endian float32, `classes` a row."""

    def __init__(self, name: str, file: BinaryIO, kept: bool, classes: int) -> None:
        super().__init__(name, file, kept)
        self._size = 4 * classes

    def _may_end(self, part: bytes, rest: bytearray) -> bool:
        return len(rest) >= self._size

    def _cut(self, rest: bytearray, ended: bool) -> list[bytes]:
        whole = len(rest) // self._size * self._size
        found = [bytes(rest[k : k + self._size]) for k in range(0, whole, self._size)]
        del rest[:whole]
        if ended and rest:
            raise DataError(f"{self.name}: ends within a row of {self._size} bytes", "check --classes")
        return found

    def read(self, first: int, pieces: Sequence[bytes]) -> tuple[Network | None, Batch]:
        """Rows with the time of their arrival; those of a file have none."""
        logits = np.frombuffer(b"".join(pieces), "<f4").reshape(len(pieces), -1)
        now = None if self.kept else time.time()
        return None, Batch(logits, [now] * len(pieces), [""] * len(pieces))


class ArrayRows:
    """Logits [N, classes] of an .npy, or of an .npz that may hold `ids`, `time` and statistics [N] beside them."""

    kept = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            arrays = _arrays(path)
            self._logits: Array = np.asarray(arrays["logits"])
            known = {name: values for name, values in arrays.items() if name in ("ids", "time", *STATISTICS)}
            if self._logits.ndim != 2 or self._logits.dtype.kind != "f" or not self._logits.shape[1]:
                raise ValueError(f"logits are {self._logits.dtype} {list(self._logits.shape)}, not float [N, classes]")
            for name, values in known.items():
                wanted = "U" if name == "ids" else "iuf"
                if values.shape != self._logits.shape[:1] or values.dtype.kind not in wanted:
                    raise ValueError(f"{name} is {values.dtype} {list(values.shape)} of {len(self._logits)} rows")
                if name in STATISTICS and not (np.abs(values[~np.isnan(values)]) < MOST).all():
                    raise ValueError(f"{name} is not finite; NaN stands for what is not known")
        except DAMAGED_ZIP as exc:
            told = f"no array {exc}" if isinstance(exc, KeyError) else str(exc)
            raise ArtifactError(f"{path}: not an array of logits ({told})", "give logits [N, classes]") from exc
        self._known = known

    def close(self) -> None:
        """Nothing is open."""

    def pieces(self, wait_s: float) -> Iterator[list[bytes]]:
        """The bytes of each row."""
        for k in range(0, len(self._logits), ROWS_AT_ONCE):
            yield [row.tobytes() for row in self._logits[k : k + ROWS_AT_ONCE]]

    def read(self, first: int, pieces: Sequence[bytes]) -> tuple[Network | None, Batch]:
        """Rows without a time, unless the file has one for each."""
        part, n = slice(first, first + len(pieces)), len(pieces)
        times = [_time(float(t), self.name) for t in self._known["time"][part]] if "time" in self._known else [None] * n
        images = (
            [_name(str(name), self.name) for name in self._known["ids"][part]] if "ids" in self._known else [""] * n
        )
        values = {k: np.asarray(self._known[k][part], np.float64) for k in STATISTICS if k in self._known}
        return None, Batch(np.asarray(self._logits[part], np.float32), times, images, values)


def _arrays(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".npy":
        with open_regular(path) as file:
            shape, fortran, dtype = require_array(file, os.fstat(file.fileno()).st_size, path.name)
            offset = file.tell()
        if dtype.hasobject:
            raise ValueError("objects in place of numbers")
        order: Any = "F" if fortran else "C"
        return {"logits": np.memmap(path, dtype, "r", offset, shape, order) if math.prod(shape) else np.empty(shape)}
    require_arrays(path)
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in ("logits", "ids", "time", *STATISTICS) if name in content}


def _row(content: Mapping[str, Any], where: str, now: float, columns: int | None) -> _Row:
    if unknown := [key for key in content if key not in _ALLOWED]:
        raise DataError(f"{where}: unknown key {unknown[0][:60]!r}", _FORM)
    logits = content.get("logits")
    if not isinstance(logits, list) or not logits or not all(v is None or _is_number(v) for v in logits):
        raise DataError(f"{where}: logits are not a list of numbers", '{"logits": [0.5, -1.25]}; null is not finite')
    if columns not in (None, len(logits)):
        raise DataError(f"{where}: {len(logits)} logits, {columns} in the lines before", "one log is of one network")
    row: dict[str, object] = {"logits": [math.nan if v is None else v for v in logits]}
    for name in STATISTICS:
        value = content.get(name)
        if value is not None and not (_is_number(value) and math.isfinite(value) and abs(value) < MOST):
            raise DataError(
                f"{where}: {name} {value!r:.60} is no number below {MOST:g}", "leave it out where it is unknown"
            )
        row[name] = math.nan if value is None else float(value)
    return {
        **row,
        "time": _time(content["time"], where) if "time" in content else now,
        "image": _name(content.get("image", ""), where),
    }


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return whole or isinstance(value, float)


def _time(value: Any, where: str) -> float | None:
    """Seconds since 1970 of a number, or of ISO 8601 text with its offset from UTC; None stands for no time."""
    if value is None:
        return None
    seconds = math.nan
    if isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
            seconds = moment.timestamp() if moment.tzinfo is not None else math.nan
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < LATEST else math.nan
    if not 0 <= seconds < LATEST:
        raise DataError(
            f"{where}: time {value!r:.60} is not one",
            "seconds since 1970 (UTC), or ISO 8601 with an offset (2026-11-27T10:00:00+01:00), or null for none",
        )
    return seconds


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise DataError(f"{where}: image is not a text of at most {LONGEST_NAME} characters", "give its name alone")
    return value
