"""Data sets of small pictures that fit in memory: the digits of scikit-learn, MNIST, CIFAR-10."""

from __future__ import annotations

import gzip
import importlib.util
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecnn.data.dataset import Dataset, Labels, Split, stratified
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError
from edgecnn.limits import read_file, require_expansion, require_regular
from edgecnn.machine.packages import missing_package


def digits(root: Path, preprocessing: Preprocessing, split: Split) -> Dataset:
    """The UCI digits that scikit-learn ships: 1 797 of 8x8 pixels; 540 of them, stratified, are the test set."""
    table = _digits_table()
    pixels = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, 64].astype(np.int64)
    whole = _pixels("digits", pixels, labels, [str(d) for d in range(10)], preprocessing)
    test = set(stratified(labels, whole.ids, 540))
    return whole.subset([i for i in range(len(whole)) if (i in test) == (split == "test")])


def _digits_table() -> npt.NDArray[np.float64]:
    """[1797, 65]: 64 pixels of 0..16 and the label. Read from scikit-learn's file: importing scikit-learn takes a
    second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise missing_package("scikit-learn", "the data set digits", "cpu")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", ndmin=2)
        if table.shape != (1797, 65):
            raise ValueError(f"{table.shape[0]} x {table.shape[1]} numbers, not 1797 x 65")
    except (OSError, EOFError, ValueError) as exc:
        raise DataError(f"{path}: not the digits of scikit-learn ({exc})", "install scikit-learn again") from exc
    return table


def mnist_files(root: Path, split: Split) -> list[Path]:
    """The two IDX files of a split, plain or gzipped; raises `DataError`."""
    stem = {"train": "train", "test": "t10k"}[split]
    return [_plain_or_gzipped(root / f"{stem}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")]


def mnist(root: Path, preprocessing: Preprocessing, split: Split) -> Dataset:
    """The four IDX files of MNIST in `root`."""
    pixels, labels = map(_idx, mnist_files(root, split), (3, 1))
    if len(pixels) != len(labels):
        raise DataError(f"{root}: {len(pixels)} images but {len(labels)} labels", "fetch both files again")
    return _pixels(f"mnist-{split}", pixels, labels.astype(np.int64), [str(d) for d in range(10)], preprocessing)


def cifar10_files(root: Path, split: Split) -> list[Path]:
    """The files of a split that are there; raises `DataError` when none is."""
    folder = root / "cifar-10-batches-bin" if (root / "cifar-10-batches-bin").is_dir() else root
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{k}.bin" for k in range(1, 6)]
    found = [folder / n for n in names if (folder / n).is_file()]
    if not found:
        raise DataError(f"{folder}: no {names[0]}", "cifar10:DIR needs the folder of the CIFAR-10 binary version")
    return found


def cifar10(root: Path, preprocessing: Preprocessing, split: Split) -> Dataset:
    """The binary version of CIFAR-10 in `root`."""
    found = cifar10_files(root, split)
    rows = []
    for path in found:
        content = np.frombuffer(_content(path), np.uint8)
        if content.size == 0 or content.size % 3073:
            raise DataError(f"{path}: {content.size} bytes are not whole rows of 3073", "fetch the file again")
        rows.append(content.reshape(-1, 3073))
    table = np.concatenate(rows)
    pixels = np.ascontiguousarray(table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    meta = found[0].with_name("batches.meta.txt")
    classes = _names(meta) if meta.exists() else [str(k) for k in range(10)]
    return _pixels(f"cifar10-{split}", pixels, table[:, 0].astype(np.int64), classes, preprocessing)


def _pixels(
    name: str, pixels: npt.NDArray[np.uint8], labels: Labels, classes: Sequence[str], preprocessing: Preprocessing
) -> Dataset:
    width = len(str(len(pixels)))
    return Dataset(
        name=name,
        ids=tuple(f"{name}/{i:0{width}d}" for i in range(len(pixels))),
        labels=labels,
        label_names=tuple(classes),
        preprocessing=preprocessing,
        content=lambda i: pixels[i].tobytes(),
        image=lambda i: Image.fromarray(pixels[i]),
    )


def _plain_or_gzipped(path: Path) -> Path:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path}[.gz]: no such file", "mnist:DIR needs the folder with the four IDX files")


def _content(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror}", "fetch the file again") from exc


def _names(path: Path) -> list[str]:
    try:
        return _content(path).decode().split()
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not UTF-8 text ({exc})", "fetch the file again") from exc


def _idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """An array of so many axes in the IDX format of the MNIST files."""
    try:
        size = require_regular(path)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            magic = file.read(4)
            shape = [int.from_bytes(file.read(4), "big") for _ in range(magic[3])]
            if magic[:3] != b"\0\0\x08" or len(shape) != axes or 0 in shape:
                raise ValueError(f"{list(magic)} and {shape[:4]} in front, not bytes of {axes} axes")
            require_expansion(size, math.prod(shape))
            content = file.read(math.prod(shape) + 1)
        return np.frombuffer(content, np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as exc:
        raise DataError(f"{path}: not a whole IDX file ({exc})", "fetch the file again") from exc
