"""Images that are preprocessed already, in an `.npz`."""

from __future__ import annotations

import os
import struct
import threading
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import Preprocessing, first_difference, preprocessing_from_json
from edgecnn.errors import DataError
from edgecnn.limits import DAMAGED_ZIP, npy_header, require_arrays
from edgecnn.records import parse_json


def npz(path: Path, expected: Preprocessing | None) -> Dataset:
    """Preprocessed `input` [N, C, H, W] float32, read row by row from the archive, with an optional `label` [N] of
    whole numbers (-1 where unknown). Raises `DataError`.

    Where it carries its `preprocessing` (JSON, as in a sidecar), that must be the model's.
    """
    try:
        require_arrays(path)
        archive = zipfile.ZipFile(path)
        held = archive.namelist()
        if "input.npy" not in held:
            names = ", ".join(repr(name.removesuffix(".npy")) for name in held[:4]) or "nothing"
            raise DataError(
                f"{path}: holds {names} and no `input`",
                "numpy.savez(FILE, input=IMAGES, label=CLASSES) with images as the network takes them, float32 NCHW; "
                "pixels that are still to be preprocessed lie best in an image folder",
            )
        member = archive.open("input.npy")
        shape, order, dtype = npy_header(member)
        labels = _npy_whole(archive, "label.npy") if "label.npy" in held else None
        made_by = parse_json(str(_npy_whole(archive, "preprocessing.npy"))) if "preprocessing.npy" in held else None
    except DAMAGED_ZIP as exc:
        raise DataError(f"{path}: not an .npz with an array `input` ({exc})", "save it with numpy.savez") from exc
    if len(shape) != 4 or dtype != np.float32 or order:
        raise DataError(
            f"{path}: `input` is {dtype} {list(shape)}, not float32 [N, C, H, W] in C order",
            "save the preprocessed images as float32 NCHW",
        )
    if shape[0] == 0 or (labels is not None and len(labels) != shape[0]):
        found = "no images" if labels is None or shape[0] == 0 else f"{shape[0]} images but {len(labels)} labels"
        raise DataError(f"{path}: {found}", "save one label for each image")
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < -1):
        raise DataError(
            f"{path}: `label` is {labels.dtype} {list(labels.shape)}, not one class number for each image",
            "save whole numbers from 0, [N]; -1 where the class is not known",
        )
    known = None if made_by is None else preprocessing_from_json(made_by)
    if known and expected and (difference := first_difference(made_by, expected.to_json())):
        raise DataError(
            f"{path}: its images were preprocessed otherwise than the model expects: {difference}",
            "make the .npz again with the preprocessing in the model's sidecar",
        )
    offset, stride, read = member.tell(), int(np.prod(shape[1:])) * 4, read_member(path, archive, member)

    def row(index: int) -> bytes:
        content = read(offset + index * stride, stride)
        if len(content) != stride:
            raise DataError(f"{path}: ends within image {index}", "the file is truncated: save it again")
        return content

    return Dataset(
        name=path.stem,
        ids=tuple(f"{path.stem}/{i}" for i in range(shape[0])),
        labels=None if labels is None else labels.astype(np.int64),
        label_names=None,
        preprocessing=known,
        content=row,
        image=None,
        array=lambda i: np.frombuffer(row(i), np.float32).reshape(shape[1:]),
    )


def read_member(path: Path, archive: zipfile.ZipFile, member: IO[bytes]) -> Callable[[int, int], bytes]:
    """(position, length) -> bytes of a member; a plainly stored one is read from the file itself, since going back
    within a member reads it anew from its start."""
    info = archive.getinfo(str(member.name))
    if info.compress_type != zipfile.ZIP_STORED:
        turn = threading.Lock()

        def read(position: int, length: int) -> bytes:
            with turn:
                return member.read(length) if member.seek(position) == position else b""

        return read
    file = path.open("rb")
    file.seek(info.header_offset + 26)
    start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))

    def read_stored(position: int, length: int) -> bytes:
        return os.pread(file.fileno(), length, start + position)

    weakref.finalize(read_stored, file.close)  # the file is open for as long as the data set can be read
    return read_stored


def _npy_whole(archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.int64]:
    with archive.open(name) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
