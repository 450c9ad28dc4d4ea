"""The order of ImageNet's classes in the challenge's development kit, which is not that of published weights: from its
`meta.mat` (MATLAB 5, read here without SciPy) or its `map_clsloc.txt`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgecnn.errors import DataError

FILES = ("meta.mat", "map_clsloc.txt")
_HINT = "take meta.mat or map_clsloc.txt out of the development kit again"
_COMPRESSED, _MATRIX = 15, 14
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1"}
_STRUCT = 2
_MOST_BYTES = 64 << 20  # the real file holds 2 MB


def class_order(path: Path) -> dict[int, str]:
    """The wnid of each ILSVRC2012_ID from 1 to 1000; raises `DataError` for another file."""
    try:
        pairs = list(_from_map(path) if path.suffix == ".txt" else _from_mat(path.read_bytes()))
    except (OSError, ValueError, ArithmeticError, LookupError, zlib.error, RecursionError) as exc:
        raise DataError(f"{path}: not a table of ImageNet's classes ({exc})", _HINT) from exc
    order = {number: wnid for number, wnid in pairs if 1 <= number <= 1000}
    if len(order) != 1000 or len(set(order.values())) != 1000 or not all(map(_is_wnid, order.values())):
        raise DataError(f"{path}: names {len(order)} of the classes 1 to 1000, or one of them twice", _HINT)
    return order


def _is_wnid(text: str) -> bool:
    return re.fullmatch(r"n\d{8}", text) is not None


def _from_map(path: Path) -> Iterator[tuple[int, str]]:
    """Lines such as `n02119789 1 kit_fox`."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            wnid, number, *_ = line.split()
            yield int(number), wnid


def _from_mat(content: bytes) -> Iterator[tuple[int, str]]:
    """The fields ILSVRC2012_ID and WNID of the structure array `synsets` (MAT-File Format, level 5)."""
    if content[:10] != b"MATLAB 5.0" or content[126:128] != b"IM":
        raise ValueError("no MATLAB 5 file of little-endian numbers")
    for kind, body in _elements(content[128:]):
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            whole = inflater.decompress(body, _MOST_BYTES)
            if inflater.unconsumed_tail:
                raise ValueError(f"more than {_MOST_BYTES >> 20} MB")
            kind, body = next(_elements(whole), (kind, b""))
        if kind == _MATRIX:
            yield from _synsets(body)


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, data) of each data element; small ones keep both in eight bytes."""
    at = 0
    while at + 8 <= len(content):
        kind, length = (int(n) for n in np.frombuffer(content, "<u4", 2, at))
        if kind >> 16:
            kind, length, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
        else:
            start, step = at + 8, 8 + (length if kind == _COMPRESSED else -(-length // 8) * 8)
        if start + length > len(content):
            raise ValueError("it ends too early")
        yield kind, content[start : start + length]
        at += step


def _synsets(matrix: bytes) -> Iterator[tuple[int, str]]:
    parts = [body for _, body in _elements(matrix)]
    if parts[0][0] != _STRUCT or parts[2] != b"synsets":
        return
    width = int(np.frombuffer(parts[3], "<i4")[0])
    names = [parts[4][k : k + width].rstrip(b"\0").decode() for k in range(0, len(parts[4]), width)]
    number, wnid = names.index("ILSVRC2012_ID"), names.index("WNID")
    cells = parts[5:]
    for k in range(0, len(cells), len(names)):
        yield int(_numbers(cells[k + number])[0]), "".join(chr(int(c)) for c in _numbers(cells[k + wnid]))


def _numbers(matrix: bytes) -> list[float]:
    """The values of a numeric or a character matrix."""
    kind, body = list(_elements(matrix))[3]
    return [float(value) for value in np.frombuffer(body, f"<{_TYPES[kind]}")]
