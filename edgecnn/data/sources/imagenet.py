"""ImageNet (ILSVRC 2012) as it lies on disks: class folders, or the flat validation folder with its ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import sha256_of
from edgecnn.data.dataset import Dataset, Split
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.folder import (
    SPLIT_FOLDERS,
    class_positions,
    decode,
    file_bytes,
    has_class_folders,
    ids_of,
    image_folder,
    image_marks,
    image_names,
)
from edgecnn.data.sources.ground_truth import ground_truth_files, ground_truth_of
from edgecnn.errors import DataError

_BELOW = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # as it is unpacked by torchvision, by Kaggle
_NAMES = {"train": SPLIT_FOLDERS["train"], "test": (*SPLIT_FOLDERS["test"], "ILSVRC2012_img_val")}
_KITS = ("ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12", "devkit/data", "ILSVRC/devkit/data")


def imagenet(
    root: Path, preprocessing: Preprocessing, split: Split, labels: Sequence[str], wnids: Sequence[str]
) -> Dataset:
    """The images of a split below `root`; the validation images are the test images. Raises `DataError`."""
    folder = _split_folder(root, split)
    if has_class_folders(folder):
        return image_folder(folder, preprocessing, split, labels, wnids)
    names = image_names(folder)
    if not names:
        raise DataError(f"{folder}: no images", "imagenet:DIR needs DIR/val, and DIR/train to calibrate with")
    if split == "train":
        raise DataError(
            f"{folder}: training images lie in one folder for each wnid",
            "unpack ILSVRC2012_img_train.tar and the tars in it",
        )
    images = [folder / name for name in names]
    found = ground_truth_of(images, _folders_of_facts(root, folder))
    classes = sorted(set(found))
    position = class_positions(folder, classes, labels, wnids)
    return Dataset(
        name=f"{root.name}-{split}",
        ids=ids_of(folder, names),
        labels=np.array([position[wnid] for wnid in found], np.int64),
        label_names=tuple(labels or wnids or classes),
        preprocessing=preprocessing,
        content=lambda i: file_bytes(images[i]),
        image=lambda i: decode(images[i]),
        by_position=not labels and not wnids,
    )


def has_validation_images(root: Path) -> bool:
    """Whether there is a folder of them."""
    return _folder_called(root, "test") is not None


def imagenet_marks(root: Path, split: Split) -> list[str]:
    """What changes when the images of a split or their classes do: names and sizes, and the ground truth's content."""
    folder = _split_folder(root, split)
    flat = split == "test" and not has_class_folders(folder)
    return [*image_marks(folder)] + [sha256_of(p) for p in ground_truth_files(_folders_of_facts(root, folder)) if flat]


def _split_folder(root: Path, split: Split) -> Path:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder", "imagenet:DIR, or --data DIR, names the folder with train/ and val/")
    if folder := _folder_called(root, split):
        return folder
    if _folder_called(root, "test" if split == "train" else "train") is None:
        return root  # it holds the images of one split
    if split == "train":
        raise DataError(f"{root}: no training images to calibrate with", "name their folder: --calibration-data DIR")
    raise DataError(
        f"{root}: no folder {' or '.join(_NAMES['test'])}", "add the validation images, or name their folder"
    )


def _folder_called(root: Path, split: Split) -> Path | None:
    return next((f for below in _BELOW for name in _NAMES[split] if (f := root / below / name).is_dir()), None)


def _folders_of_facts(root: Path, folder: Path) -> list[Path]:
    """Where the ground truth and the development kit's files may lie."""
    near = dict.fromkeys([root, folder, folder.parent])
    return [*near, *(place / kit for place in near for kit in _KITS)]
