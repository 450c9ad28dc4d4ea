"""Folders of image files: one for each class, or images alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgecnn.dataset.images import Dataset, Split
from edgecnn.errors import DataError, nearest
from edgecnn.preprocess import Preprocessing

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}


def split_folder(root: Path, split: Split) -> Path:
    """The folder of a split below `root`, or `root` itself."""
    return next((root / n for n in SPLIT_FOLDERS[split] if (root / n).is_dir()), root)


def image_folder(
    root: Path, preprocessing: Preprocessing, split: Split, labels: Sequence[str], wnids: Sequence[str]
) -> Dataset:
    """One folder of images for each class; or images alone, which have no labels. Raises `DataError`."""
    folder = split_folder(root, split)
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if classes and paths:
        raise DataError(f"{folder}: {paths[0].name} lies beside class folders", "move it into the folder of its class")
    if not classes and not paths:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: no images ({kinds})", "put images there, in one folder for each class")
    names = [c.name for c in classes]
    position = _class_positions(folder, names, labels, wnids)
    targets: list[int] = []
    for c in classes:
        images = image_files(c)
        if not images:
            raise DataError(f"{c}: a class without images", "add images to it, or remove the folder")
        paths += images
        targets += [position[c.name]] * len(images)
    return Dataset(
        name=f"{root.name}-{split}" if folder != root else root.name,
        ids=tuple(str(p.relative_to(folder)) for p in paths),
        labels=np.array(targets, np.int64) if classes else None,
        label_names=tuple(labels) if labels else tuple(names) or None,
        preprocessing=preprocessing,
        content=lambda i: _file_bytes(paths[i]),
        image=lambda i: decode(paths[i]),
        by_position=bool(classes) and not labels and not wnids,
    )


def image_files(folder: Path) -> list[Path]:
    """Every image below `folder`."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


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
