"""Packed images: uint8 pixels after resize and crop, each with the sha256 of the image that it comes from.

An uncompressed `.npz` of `pixels` [N, H, W, C], `ids` [N], `sha256` [N] and, where the images have labels, `label` [N];
`facts` is JSON that says the rest. Pixels are normalized when they are read, as the model's sidecar says, so that one
file serves every network of the same geometry. Nothing in it is compressed: a row is read where it lies.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.data.dataset import Dataset, Split, nfc
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.archive import read_member
from edgecnn.errors import ArtifactError, DataError
from edgecnn.limits import DAMAGED_ZIP, npy_header, require_array, require_regular
from edgecnn.records import STRICT, parse_json, record_from_json, to_plain

FORMAT = 1
AGAIN = "pack the images again, with `edgecnn bundle`"
_NORMALIZATION = ("mean", "std")


@dataclass(frozen=True)
class PackedFacts:
    """What the pixels are: of which data set, by which geometry, of which classes; `images_sha256` is the identity of
    the split that they come from, "" where it has none."""

    __pydantic_config__ = STRICT

    format: int
    dataset: str
    split: Split
    geometry: dict[str, Any]
    label_names: tuple[str, ...] = ()
    images_sha256: str = ""


def is_packed(path: Path) -> bool:
    """Whether a file holds packed images."""
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            return "pixels.npy" in archive.namelist()
    except DAMAGED_ZIP:
        return False


def write_packed(path: Path, dataset: Dataset, split: Split, images_sha256: str) -> int:
    """Pack the images of `dataset` that can be read, one at a time; the same images give the same file. Returns how
    many there are; raises `DataError` for images that are preprocessed already, and where none can be read."""
    preprocessing = dataset.preprocessing
    if preprocessing is None or (dataset.image is None and dataset.pixels is None):
        raise DataError(f"{dataset.name}: holds no pictures that could be packed", "name an image folder or a data set")
    rows, kept = path.with_name(f"{path.name}.rows"), list[int]()
    try:
        with rows.open("wb") as file:
            for index in range(len(dataset)):
                try:
                    pixels = _pixels_of(dataset, preprocessing, index)
                except DataError:
                    continue  # the reference has left it out as well
                file.write(np.ascontiguousarray(pixels).tobytes())
                kept.append(index)
        if not kept:
            raise DataError(f"{dataset.name}: none of its {len(dataset)} images can be read", "check the files")
        facts = PackedFacts(
            FORMAT, dataset.name, split, _geometry(preprocessing), dataset.label_names or (), images_sha256
        )
        _write(path, rows, dataset.subset(kept), facts)
    finally:
        rows.unlink(missing_ok=True)
    return len(kept)


def _pixels_of(dataset: Dataset, preprocessing: Preprocessing, index: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, C] of a picture, or of one that was packed before."""
    if dataset.pixels is not None:
        return dataset.pixels(index)
    assert dataset.image is not None
    return np.asarray(preprocessing.crop_image(dataset.image(index)), np.uint8)


def packed_facts(path: Path) -> PackedFacts:
    """What the images in a file of packed ones are; raises `DataError` for another file, or another version's."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _facts(path, archive)
    except DAMAGED_ZIP as exc:
        raise DataError(f"{path}: not a whole file of packed images ({exc})", AGAIN) from exc


def packed(path: Path, preprocessing: Preprocessing, split: Split) -> Dataset:
    """Packed images, which are normalized when they are read, or arranged as a serving contract takes them.

    Raises `DataError` for another geometry than `preprocessing` has, for images of another split, and for a file that
    is damaged or of another version.
    """
    try:
        archive = zipfile.ZipFile(path)
        facts = _facts(path, archive)
        shape, dtype = _declared(path, archive, "pixels")
        member = archive.open("pixels.npy")
        npy_header(member)
        ids, sha256s = _whole(path, archive, "ids", "U"), _whole(path, archive, "sha256", "S")
        labels = _whole(path, archive, "label", "i") if "label.npy" in archive.namelist() else None
        digests = tuple(s.decode("ascii") for s in sha256s.tolist())
        names = tuple(nfc(name) for name in ids.tolist())
    except (AttributeError, *DAMAGED_ZIP) as exc:
        raise DataError(f"{path}: not a whole file of packed images ({exc})", AGAIN) from exc
    if len(shape) != 4 or dtype != np.uint8 or {len(ids), len(digests)} != {shape[0]}:
        raise DataError(f"{path}: `pixels` is {dtype} {list(shape)}, not uint8 [{len(ids)}, H, W, C]", AGAIN)
    _require_geometry(path, facts, preprocessing, shape[1:], split)
    offset, stride, read = member.tell(), int(np.prod(shape[1:])), read_member(path, archive, member)

    def row(index: int) -> bytes:
        content = read(offset + index * stride, stride)
        if len(content) != stride:
            raise DataError(f"{path}: ends within image {index}", "the file is truncated: copy it again")
        return content

    return Dataset(
        name=facts.dataset,
        ids=names,
        labels=None if labels is None else labels.astype(np.int64),
        label_names=facts.label_names or None,
        preprocessing=preprocessing,
        content=row,
        image=None,
        pixels=lambda i: np.frombuffer(row(i), np.uint8).reshape(shape[1:]),
        sha256s=digests,
    )


def _require_geometry(
    path: Path, facts: PackedFacts, preprocessing: Preprocessing, shape: tuple[int, ...], split: Split
) -> None:
    ours, theirs = _geometry(preprocessing), facts.geometry
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise DataError(
                f"{path}: its images were packed with {key} {theirs.get(key)}, the model takes {ours.get(key)}",
                "pack them for this model: `edgecnn bundle` of its run",
            )
    channels, height, width = preprocessing.input_shape
    if shape != (height, width, channels):
        raise DataError(f"{path}: images of {list(shape)}, not {[height, width, channels]}", AGAIN)
    if facts.split != split:
        raise DataError(f"{path}: holds {facts.split} images, not {split} images", "name images of that split")


def _geometry(preprocessing: Preprocessing) -> dict[str, Any]:
    """What makes the pixels: everything but the normalization."""
    return {key: value for key, value in preprocessing.to_json().items() if key not in _NORMALIZATION}


def _facts(path: Path, archive: zipfile.ZipFile) -> PackedFacts:
    text = str(_whole(path, archive, "facts", "U"))
    try:
        found = parse_json(text).get("format")
        if found != FORMAT:
            raise DataError(f"{path}: packed images of format {found}, this edgecnn reads {FORMAT}", AGAIN)
        return record_from_json(PackedFacts, text, f"{path}: facts", AGAIN)
    except (ArtifactError, AttributeError) as exc:
        raise ValueError(str(exc)) from exc


def _write(path: Path, rows: Path, dataset: Dataset, facts: PackedFacts) -> None:
    assert dataset.preprocessing is not None
    channels, height, width = dataset.preprocessing.input_shape
    arrays = {
        "ids": np.array(dataset.ids, np.str_),
        "sha256": np.array([dataset.sha256(k) for k in range(len(dataset))], "S64"),
        "facts": np.array(json.dumps(to_plain(facts), ensure_ascii=False)),
        **({} if dataset.labels is None else {"label": dataset.labels}),
    }
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(dataset), height, width, channels)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with archive.open(zipfile.ZipInfo("pixels.npy"), "w", force_zip64=True) as member, rows.open("rb") as file:
            np.lib.format.write_array_header_1_0(member, header)
            while chunk := file.read(1 << 20):
                member.write(chunk)


def _whole(path: Path, archive: zipfile.ZipFile, name: str, kind: str) -> npt.NDArray[Any]:
    """A small array; raises `ValueError` for one of another kind, or as `_declared` does."""
    shape, dtype = _declared(path, archive, name)
    if dtype.kind != kind or len(shape) > 1:
        raise ValueError(f"`{name}` is {dtype} {list(shape)}")
    with archive.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _declared(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """(shape, type) of an array; raises `ValueError` where it declares other than the file holds: nothing is allocated
    before."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
        raise ValueError(f"`{name}` is compressed, or larger than the file")
    with archive.open(info) as file:
        shape, fortran, dtype = require_array(file, info.file_size, f"`{name}`")
        if fortran:
            raise ValueError(f"`{name}` is in Fortran's order")
    return shape, dtype
