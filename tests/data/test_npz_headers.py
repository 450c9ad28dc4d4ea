"""Headers of arrays that are no Python: numpy raises what its tokenizer and parser raise."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgecnn.data.sources.archive import npz
from edgecnn.errors import ArtifactError, DataError
from edgecnn.inspection.artifact import describe

HEADERS = [
    b"{'descr': (",
    b"{'descr': '''",
    b"(" * 4000,
    b"-" * 9000 + b"1",
    b"  x\n y\n\tz",
    b"\x00",
    b"\xff\xfe",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (9" + b"9" * 5000 + b",)}",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
@pytest.mark.parametrize("version", [1, 2])
def test_an_array_whose_header_is_no_python_is_damaged(header: bytes, version: int, tmp_path: Path) -> None:
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("input.npy", b"\x93NUMPY" + bytes([version, 0]) + length + header)
    with pytest.raises(DataError, match="not an .npz with an array `input`"):
        npz(tmp_path / "x.npz", None)
    with pytest.raises(ArtifactError, match="not a whole .npz"):
        describe(tmp_path / "x.npz")
