"""Labelled images as numpy batches, in a deterministic order, from a data set named on the command line.

`digits`, `mnist:DIR`, `cifar10:DIR`, `imagenet:DIR`, an image folder (`./digits` where it has the name of a data set),
a calibration manifest, or an `.npz`: packed images, or an array `input` that is already preprocessed. The split
("train" or "test") comes from what the data is used for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import sha256_of
from edgecnn.data.dataset import Batch, Dataset, Labels, Split, batches, spread, stratified
from edgecnn.data.label_file import read_labels
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.archive import npz
from edgecnn.data.sources.folder import (
    decode,
    has_test_folder,
    how_to_sort,
    image_folder,
    image_marks,
    image_names,
    split_folder,
)
from edgecnn.data.sources.imagenet import has_validation_images, imagenet, imagenet_marks
from edgecnn.data.sources.listing import listing_each_folder_once, once
from edgecnn.data.sources.packed import is_packed, packed, packed_facts
from edgecnn.data.sources.pixels import cifar10, cifar10_files, digits, mnist, mnist_files
from edgecnn.errors import DataError, nearest

NAMED = {"digits": digits, "mnist": mnist, "cifar10": cifar10}

__all__ = [
    "Batch",
    "Dataset",
    "Labels",
    "Split",
    "batches",
    "decode",
    "has_test_split",
    "images_sha256",
    "is_split",
    "listing_each_folder_once",
    "open_dataset",
    "read_labels",
    "spread",
    "stratified",
]


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
    if source.endswith(".npz") and not is_packed(Path(source)):
        return npz(Path(source), preprocessing)
    if preprocessing is None:
        raise DataError(
            f"{source}: how its images are preprocessed is not known: the model has no sidecar that says it",
            "`edgecnn export` and `edgecnn import --preprocess` write one; or give an .npz with preprocessed `input`",
        )
    if source.endswith(".npz"):
        return _matched(packed(Path(source), preprocessing, split), split, labels)
    if name == "imagenet" and root:
        return imagenet(Path(root), preprocessing, split, labels, wnids)
    if name in NAMED:
        _require_one_meaning(source)
        return _matched(NAMED[name](Path(root or "."), preprocessing, split), split, labels)
    if Path(source).is_dir():
        return image_folder(Path(source), preprocessing, split, labels, wnids)
    if name == "lfw" and root:
        raise DataError(
            f"{source}: pairs, which `reference` and `validate` of an embedding network take on this machine",
            "name the folder with the persons' folders",
        )
    if not Path(source).exists():
        raise DataError(
            f"no data set {source!r}",
            (nearest(name, NAMED) or "name digits, mnist:DIR, cifar10:DIR, imagenet:DIR, a folder, a manifest, an .npz")
            + f"; a path counts from {Path.cwd()}",
        )
    if Path(source).suffix.lower() in (".csv", ".tsv"):
        raise DataError(f"{source}: a table, not a data set", how_to_sort(Path(source)))
    raise DataError(f"{source}: not a data set", "name an image folder, a manifest (.txt) or an .npz")


def _require_one_meaning(source: str) -> None:
    """Raise `DataError` where the name of a data set is a folder of images here too."""
    if source in NAMED and Path(source).is_dir() and image_names(Path(source)):
        other = "rename the folder" if source == "digits" else f"write {source}:DIR"
        raise DataError(
            f"{source}: the data set of that name, or the folder of images {Path(source).absolute()}",
            f"write ./{source} for the folder; for the data set {other}",
        )


def _is_folder(source: str) -> bool:
    """Whether `source` names a folder of images: what has the name of a data set is that one."""
    return source.partition(":")[0] not in NAMED and Path(source).is_dir()


def has_test_split(source: str) -> bool:
    """Whether what `source` names has test images of its own: a folder may hold training images alone, an .npz does."""
    name, _, root = source.partition(":")
    if name == "imagenet" and root:
        return has_validation_images(Path(root))
    if _is_folder(source):
        return has_test_folder(Path(source))
    return not source.endswith(".npz")


def is_split(source: str) -> bool:
    """Whether the training images that `source` names are others than its test images: so they are in a data set with a
    name, and in a folder with a folder for each; raises `DataError` as `split_folder` does."""
    if source.endswith(".npz"):
        return False
    folder = Path(source)
    return not _is_folder(source) or split_folder(folder, "train") != split_folder(folder, "test")


def images_sha256(source: str, split: Split) -> str | None:
    """What changes when the images of a split do, wherever they lie, without decoding any: names and sizes in an image
    folder, content of the other files; of packed images what those had that they come from. None for what is not
    there."""
    return once(("images_sha256", source, split), lambda: _images_sha256(source, split))


def _images_sha256(source: str, split: Split) -> str | None:
    marks: Iterable[str]
    name, _, root = source.partition(":")
    files = {"mnist": mnist_files, "cifar10": cifar10_files}
    try:
        if name in files:
            marks = [sha256_of(path) for path in files[name](Path(root or "."), split)]
        elif name == "imagenet" and root:
            marks = imagenet_marks(Path(root), split)
        elif source == "digits":
            marks = [source, split]
        elif Path(source).is_file() and is_packed(Path(source)):
            return packed_facts(Path(source)).images_sha256 or None
        elif Path(source).is_file():
            marks = [sha256_of(Path(source))]
        elif Path(source).is_dir():
            marks = image_marks(split_folder(Path(source), split))
        else:
            return None
    except DataError:
        return None
    digest, separator = hashlib.sha256(), ""
    for mark in marks:
        digest.update(f"{separator}{mark}".encode())
        separator = "\n"
    return digest.hexdigest()


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
