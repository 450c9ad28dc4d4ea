"""Labelled images as numpy batches, in a deterministic order, from a data set named on the command line.

`digits`, `mnist:DIR`, `cifar10:DIR`, an image folder, a calibration manifest, or an `.npz` whose array `input` is
already preprocessed. The split ("train" or "test") comes from what the data is used for.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecnn.errors import DataError, MissingPackageError, nearest
from edgecnn.preprocess import Preprocessing, first_difference, preprocessing_from_json
from edgecnn.session import Array

Split = Literal["train", "test"]
Labels = npt.NDArray[np.int64]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}


@dataclass(frozen=True)
class Batch:
    """`input` is float32 NCHW; `label` is -1 where unknown; `ids` name the images."""

    input: Array
    label: Labels
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """Images by position. `tensor(i)` is preprocessed float32 CHW, `image(i)` the decoded picture (None for `.npz`),
    `content(i)` the bytes whose sha256 identifies the image. `by_position`: the labels count class folders, since
    nobody said which classes a model has."""

    name: str
    ids: tuple[str, ...]
    labels: Labels | None
    label_names: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    content: Callable[[int], bytes]
    image: Callable[[int], Image.Image] | None
    array: Callable[[int], Array] | None = None
    by_position: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def tensor(self, index: int) -> Array:
        """One preprocessed image, float32 [C, H, W]; raises `DataError` that names an unreadable one."""
        if self.array is not None:
            return self.array(index)
        assert self.image is not None
        assert self.preprocessing is not None
        return self.preprocessing.tensor(self.image(index))

    def sha256(self, index: int) -> str:
        """Identity of one image."""
        return hashlib.sha256(self.content(index)).hexdigest()

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The images at `indices`, in that order."""
        order = list(indices)
        image, array, content = self.image, self.array, self.content
        return replace(
            self,
            ids=tuple(self.ids[i] for i in order),
            labels=None if self.labels is None else self.labels[order],
            content=lambda i: content(order[i]),
            image=None if image is None else lambda i: image(order[i]),
            array=None if array is None else lambda i: array(order[i]),
        )


def batches(
    dataset: Dataset, size: int, workers: int = 0, unreadable: Callable[[str, DataError], None] | None = None
) -> Iterator[Batch]:
    """The data set in order, `size` images at a time (the last may be smaller), decoded by `workers` threads ahead.

    At most three batches are held at once. An image that cannot be read raises `DataError`, or goes to `unreadable`
    and is left out.
    """
    starts = range(0, len(dataset), size)
    if workers <= 0 or dataset.array is not None:
        for start in starts:
            tensors = [partial(dataset.tensor, i) for i in range(start, min(start + size, len(dataset)))]
            yield from _batch(dataset, start, tensors, unreadable)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending = []
        try:
            for start in [*starts, -1, -1]:
                if start >= 0:
                    stop = min(start + size, len(dataset))
                    pending.append((start, [pool.submit(dataset.tensor, i).result for i in range(start, stop)]))
                if pending and (len(pending) > 2 or start < 0):
                    yield from _batch(dataset, *pending.pop(0), unreadable)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def open_dataset(
    source: str,
    preprocessing: Preprocessing | None,
    split: Split,
    labels: Sequence[str] = (),
    wnids: Sequence[str] = (),
) -> Dataset:
    """The data set that `source` names. `labels` and `wnids` are the model's classes: those of the data set are matched
    with them by name, never by position. Raises `DataError`."""
    name, _, root = source.partition(":")
    if source.endswith(".npz"):
        return _npz(Path(source), preprocessing)
    if preprocessing is None:
        raise DataError(
            f"{source}: how its images are preprocessed is not known: the model has no sidecar that says it",
            "`edgecnn export` and `edgecnn import --preprocess` write one; or give an .npz with preprocessed `input`",
        )
    named = {"digits": _digits, "mnist": _mnist, "cifar10": _cifar10}
    if name in named:
        return _matched(named[name](Path(root or "."), preprocessing, split), split, labels)
    if Path(source).is_dir():
        return _image_folder(Path(source), preprocessing, split, labels, wnids)
    if not Path(source).exists():
        raise DataError(
            f"no data set {source!r}",
            nearest(name, named) or "name digits, mnist:DIR, cifar10:DIR, an image folder, a manifest or an .npz",
        )
    raise DataError(f"{source}: not a data set", "name an image folder, a manifest (.txt) or an .npz")


def _matched(dataset: Dataset, split: Split, labels: Sequence[str]) -> Dataset:
    """`dataset` with its labels counted as the model counts its classes; raises `DataError` for other test classes."""
    names = dataset.label_names or ()
    if dataset.labels is None or not labels or tuple(labels) == names:
        return dataset
    if sorted(labels) == sorted(names):
        position = np.array([list(labels).index(name) for name in names], np.int64)
        return replace(dataset, labels=position[dataset.labels], label_names=tuple(labels))
    if split == "train":  # images to calibrate with need not be of the model's classes
        return dataset
    unknown = next((name for name in names if name not in labels), names[0])
    raise DataError(
        f"{dataset.name}: its {len(names)} classes, such as {unknown!r}, are not the model's {len(labels)}",
        "use the data set that the model was trained for",
    )


def stratified(labels: Labels, ids: Sequence[str], count: int, seed: int = 0) -> list[int]:
    """`count` positions, spread over the classes as evenly as they allow; the same for the same ids and seed."""
    rank = [hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in ids]
    by_class: dict[int, list[int]] = {}
    for position in sorted(range(len(ids)), key=lambda i: rank[i]):
        by_class.setdefault(int(labels[position]), []).append(position)
    turns = [(turn, label, p) for label, members in by_class.items() for turn, p in enumerate(members)]
    return sorted(p for _, _, p in sorted(turns)[:count])


def _batch(
    dataset: Dataset,
    start: int,
    tensors: Sequence[Callable[[], Array]],
    unreadable: Callable[[str, DataError], None] | None,
) -> Iterator[Batch]:
    read, positions = [], []
    for position, tensor in enumerate(tensors, start):
        try:
            read.append(tensor())
            positions.append(position)
        except DataError as exc:
            if unreadable is None:
                raise
            unreadable(dataset.ids[position], exc)
    if read:
        labels = np.full(len(read), -1, np.int64) if dataset.labels is None else dataset.labels[positions]
        yield Batch(np.stack(read), labels, tuple(dataset.ids[p] for p in positions))


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


def _digits(root: Path, preprocessing: Preprocessing, split: Split) -> Dataset:
    """The UCI digits that scikit-learn ships: 1 797 of 8x8 pixels; 540 of them, stratified, are the test set."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as exc:
        raise MissingPackageError("scikit-learn", "the data set digits", "cpu") from exc
    content = load_digits()
    pixels = np.round(content.images * (255 / 16)).astype(np.uint8)
    labels = content.target.astype(np.int64)
    whole = _pixels("digits", pixels, labels, [str(d) for d in range(10)], preprocessing)
    test = set(stratified(labels, whole.ids, 540))
    return whole.subset([i for i in range(len(whole)) if (i in test) == (split == "test")])


def _mnist(root: Path, preprocessing: Preprocessing, split: Split) -> Dataset:
    stem = {"train": "train", "test": "t10k"}[split]
    pixels, labels = _idx(root / f"{stem}-images-idx3-ubyte"), _idx(root / f"{stem}-labels-idx1-ubyte")
    if len(pixels) != len(labels):
        raise DataError(f"{root}: {len(pixels)} images but {len(labels)} labels", "fetch both files again")
    return _pixels(f"mnist-{split}", pixels, labels.astype(np.int64), [str(d) for d in range(10)], preprocessing)


def _idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array in the IDX format of the MNIST files, plain or gzipped."""
    for candidate, opener in ((path, open), (path.with_name(path.name + ".gz"), gzip.open)):
        if not candidate.is_file():
            continue
        try:
            with opener(candidate, "rb") as file:
                content = file.read()
            shape = [int.from_bytes(content[4 + 4 * k : 8 + 4 * k], "big") for k in range(content[3])]
            return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
        except (OSError, EOFError, ValueError, IndexError) as exc:
            raise DataError(f"{candidate}: not a whole IDX file ({exc})", "fetch the file again") from exc
    raise DataError(f"{path}[.gz]: no such file", "mnist:DIR needs the folder with the four IDX files")


def _cifar10(root: Path, preprocessing: Preprocessing, split: Split) -> Dataset:
    folder = root / "cifar-10-batches-bin" if (root / "cifar-10-batches-bin").is_dir() else root
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{k}.bin" for k in range(1, 6)]
    found = [folder / n for n in names if (folder / n).is_file()]
    if not found:
        raise DataError(f"{folder}: no {names[0]}", "cifar10:DIR needs the folder of the CIFAR-10 binary version")
    rows = []
    for path in found:
        content = np.fromfile(path, np.uint8)
        if content.size == 0 or content.size % 3073:
            raise DataError(f"{path}: {content.size} bytes are not whole rows of 3073", "fetch the file again")
        rows.append(content.reshape(-1, 3073))
    table = np.concatenate(rows)
    pixels = np.ascontiguousarray(table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    meta = folder / "batches.meta.txt"
    classes = meta.read_text().split() if meta.is_file() else [str(k) for k in range(10)]
    return _pixels(f"cifar10-{split}", pixels, table[:, 0].astype(np.int64), classes, preprocessing)


def _image_folder(
    root: Path, preprocessing: Preprocessing, split: Split, labels: Sequence[str], wnids: Sequence[str]
) -> Dataset:
    folder = next((root / n for n in SPLIT_FOLDERS[split] if (root / n).is_dir()), root)
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    if not classes:
        raise DataError(f"{folder}: no class folders", "an image folder holds one folder of images for each class")
    names = [c.name for c in classes]
    position = _class_positions(folder, names, labels, wnids)
    paths, targets = [], []
    for c in classes:
        images = sorted(p for p in c.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise DataError(f"{c}: a class without images", "add images to it, or remove the folder")
        paths += images
        targets += [position[c.name]] * len(images)
    return Dataset(
        name=f"{root.name}-{split}" if folder != root else root.name,
        ids=tuple(str(p.relative_to(folder)) for p in paths),
        labels=np.array(targets, np.int64),
        label_names=tuple(labels) if labels else tuple(names),
        preprocessing=preprocessing,
        content=lambda i: _file_bytes(paths[i]),
        image=lambda i: decode(paths[i]),
        by_position=not labels and not wnids,
    )


def _class_positions(folder: Path, names: Sequence[str], labels: Sequence[str], wnids: Sequence[str]) -> dict[str, int]:
    if not labels and not wnids:
        return {name: k for k, name in enumerate(names)}
    for known in (wnids, labels):
        table = {name: k for k, name in enumerate(known)}
        if all(name in table for name in names):
            if twice := [name for name in names if known.count(name) > 1]:
                raise DataError(
                    f"{folder}: {twice[0]!r} is the name of {known.count(twice[0])} classes", "name the folder by wnid"
                )
            return {name: table[name] for name in names}
    known = wnids if any(name in set(wnids) for name in names) else labels
    missing = [name for name in names if name not in set(known)]
    raise DataError(
        f"{folder}: class {missing[0]!r} is not one of the model's {len(labels) or len(wnids)} classes",
        nearest(missing[0], known) or "name the class folders as the model's labels or as wnids",
    )


def decode(path: Path) -> Image.Image:
    """One image file, decoded; raises `DataError` that names it."""
    try:
        with Image.open(path) as image:
            picture: Image.Image = image.copy()
            return picture
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise DataError(f"{path}: not a readable image ({exc})", "replace or remove the file") from exc


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror}", "check the data set's folder") from exc


def _npz(path: Path, expected: Preprocessing | None) -> Dataset:
    """Preprocessed `input` [N, C, H, W] float32 with an optional `label` [N], read row by row from the archive.

    Where it carries its `preprocessing` (JSON, as in a sidecar), that must be the model's.
    """
    try:
        archive = zipfile.ZipFile(path)
        held = archive.namelist()
        member = archive.open("input.npy")
        shape, order, dtype = _npy_header(member)
        labels = _npy_whole(archive, "label.npy") if "label.npy" in held else None
        made_by = json.loads(str(_npy_whole(archive, "preprocessing.npy"))) if "preprocessing.npy" in held else None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path}: not an .npz with an array `input` ({exc})", "save it with numpy.savez") from exc
    if len(shape) != 4 or dtype != np.float32 or order:
        raise DataError(
            f"{path}: `input` is {dtype} {list(shape)}, not float32 [N, C, H, W] in C order",
            "save the preprocessed images as float32 NCHW",
        )
    if shape[0] == 0 or (labels is not None and len(labels) != shape[0]):
        found = "no images" if labels is None or shape[0] == 0 else f"{shape[0]} images but {len(labels)} labels"
        raise DataError(f"{path}: {found}", "save one label for each image")
    known = None if made_by is None else preprocessing_from_json(made_by)
    if known and expected and (difference := first_difference(made_by, expected.to_json())):
        raise DataError(
            f"{path}: its images were preprocessed otherwise than the model expects: {difference}",
            "make the .npz again with the preprocessing in the model's sidecar",
        )
    offset, stride, read = member.tell(), int(np.prod(shape[1:])) * 4, _reader(path, archive, member)

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


def _reader(path: Path, archive: zipfile.ZipFile, member: IO[bytes]) -> Callable[[int, int], bytes]:
    """(position, length) -> bytes of a member; a plainly stored one is read from the file itself, since going back
    within a member reads it anew from its start."""
    info = archive.getinfo("input.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        return lambda position, length: member.read(length) if member.seek(position) == position else b""
    file = path.open("rb")
    file.seek(info.header_offset + 26)
    start = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return lambda position, length: os.pread(file.fileno(), length, start + position)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _npy_whole(archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.int64]:
    with archive.open(name) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
