"""What a small file may ask for: limits that hold before memory is taken, and the files that are read at all.

A reader turns the `OSError` or `ValueError` raised here into its own error, as it does those of a damaged file.
"""

from __future__ import annotations

import errno
import io
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

# What zipfile and numpy raise for an archive that is damaged, encrypted or packed in a way that they do not know (both
# a RuntimeError), and for letters beyond Unicode's (a SystemError).
DAMAGED_ZIP = (
    OSError, KeyError, ValueError, EOFError, RuntimeError, SystemError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
NOT_REGULAR = "not a regular file (a pipe, a device or a socket)"
IMAGE_PIXELS = 1 << 27  # of a picture: 400 MB as RGB
RESIZED_PIXELS = 1 << 26  # of what is made of it on the way to the crop
TEXT_BYTES = 1 << 29  # of JSON and TOML
TEXT_DEPTH = 100  # objects within each other
EXPANSION = 300  # of what is compressed: numbers that are all alike come to a thousand
SMALL = 1 << 24  # bytes that may be unpacked, whatever they come from
EMPTY = 1 << 20  # rows of an array that holds no bytes: a header of 100 bytes could name any number
GRAPH_NODES = 100_000
GRAPH_ENTRIES = 30 * GRAPH_NODES  # of all that nodes and tensors hold: 200 bytes each, once read
GRAPH_BYTES = 2 * 10**9  # with its weights; a protobuf message ends at 2^31 - 1
WEIGHTS_EXPANSION = 4  # of a checkpoint, which is a zip archive: weights hardly compress


class RefusedFileError(OSError):
    """Of a file that is not read; its text is the reason alone, since readers put the path in front."""

    def __str__(self) -> str:
        return str(self.strerror)


def require_regular(path: Path) -> int:
    """The size of a file, in bytes; raises `OSError` unless it is a plain one: a pipe would be waited for, a device
    read without end."""
    return _regular(path, path.stat())


def what_lacks(path: Path) -> str:
    """What is told of a path that is no file."""
    odd = path.exists() and not path.is_dir()
    return NOT_REGULAR if odd else "no such file"


def read_file(path: Path, largest: int = TEXT_BYTES) -> bytes:
    """The content of a plain file; raises `OSError`, also for more than `largest` bytes."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > largest:
            raise RefusedFileError(errno.EFBIG, f"{size / 1e6:.0f} MB, more than {largest / 1e6:.0f} MB", str(path))
        return file.read()


def open_regular(path: Path) -> BinaryIO:
    """A plain file, to read; raises `OSError`, as `require_regular` does."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _regular(path, os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def _regular(path: Path, found: os.stat_result) -> int:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise RefusedFileError(errno.EINVAL, NOT_REGULAR, str(path))
    return found.st_size


def require_pixels(width: int, height: int) -> None:
    """Raise `ValueError` for a picture of more than `IMAGE_PIXELS`."""
    if width * height > IMAGE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {IMAGE_PIXELS / 1e6:.0f} million")


def require_depth(content: Any) -> None:
    """Raise `ValueError` for lists and tables more than `TEXT_DEPTH` deep."""
    level: list[Any] = [content]
    for _ in range(TEXT_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError("nested too deep")


def _inside(value: Any) -> Iterable[Any]:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in held if isinstance(inner, (dict, list))]


def require_expansion(packed: int, unpacked: int) -> None:
    """Raise `ValueError` where so many bytes come of so few."""
    if unpacked > max(SMALL, EXPANSION * packed):
        raise ValueError(f"unpacks to {unpacked / 1e6:.0f} MB, more than {EXPANSION} times its size")


def require_arrays(source: Path | io.BytesIO) -> None:
    """Raise `ValueError` for an `.npz` whose members unpack beyond `require_expansion`, or hold another number of bytes
    than their headers say; others of `DAMAGED_ZIP` for what is none."""
    size = source.getbuffer().nbytes if isinstance(source, io.BytesIO) else require_regular(source)
    with zipfile.ZipFile(source) as archive:
        require_expansion(size, sum(info.file_size for info in archive.infolist()))
        for info in archive.infolist():
            with archive.open(info) as member:
                require_array(member, info.file_size, info.filename)


def npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """(shape, whether in Fortran's order, type) of the array that a member holds; raises `ValueError`."""
    import numpy as np

    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        return read(member)
    except (tokenize.TokenError, SyntaxError, RecursionError, MemoryError) as exc:  # of at most 10 000 characters
        raise ValueError("the header of an array is not that of one") from exc


def require_array(member: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """The header of the array in the file `member` of `size` bytes; raises `ValueError` unless it tells these."""
    shape, fortran, dtype = npy_header(member)
    if member.tell() + math.prod(shape) * dtype.itemsize != size or min(shape, default=0) < 0:
        raise ValueError(f"{name} is {dtype} {list(shape)}, in {size} bytes")
    if member.tell() == size and max(shape, default=0) > EMPTY:
        raise ValueError(f"{name} is {dtype} {list(shape)}, and holds nothing")
    return shape, fortran, dtype
