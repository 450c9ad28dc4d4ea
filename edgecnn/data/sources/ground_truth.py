"""The classes of ImageNet's flat validation folder, as wnids by image: from the development kit's numbers, from a text
of wnids, or from a CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgecnn.data.sources.devkit import FILES, class_order
from edgecnn.errors import DataError
from edgecnn.limits import read_file

NAMES = (
    "ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "val.csv",
    "val.txt",
)
WNID = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")
_FORMS = "one wnid or one number of the development kit a line, or a CSV of image and wnid"


def ground_truth_of(images: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """The wnid of each of `images`, which are in order of their names, from the one file of `folders` that says it.

    Raises `DataError` where none does, where two disagree, and for a file of another length or with other images.
    """
    files = list(ground_truth_files(folders))
    if not files:
        raise DataError(
            f"{images[0].parent}: {len(images)} images without class folders, and nothing that says their classes",
            f"put {NAMES[0]} with {FILES[0]}, {NAMES[2]}, or {NAMES[3]} beside them",
        )
    found = {path: _wnids(path, images, folders) for path in files}
    first, *others = found
    if other := next((path for path in others if found[path] != found[first]), None):
        raise DataError(f"{first} and {other} say other classes of the same images", "remove the one that is wrong")
    return found[first]


def ground_truth_files(folders: Sequence[Path]) -> Iterator[Path]:
    """The files that may say the classes, in `folders`."""
    return (folder / name for name in NAMES for folder in folders if (folder / name).is_file())


def _wnids(path: Path, images: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read ({exc})", _FORMS) from exc
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if path.suffix != ".csv" and all(len(line.split()) == 1 for line in lines):
        return _by_line(path, lines, images, folders)
    return _by_name(path, lines, images)


def _by_line(path: Path, lines: Sequence[str], images: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Line k is of image k."""
    if len(lines) != len(images):
        raise DataError(
            f"{path}: {len(lines)} lines, and {images[0].parent} has {len(images)} images",
            "the file is for the whole folder; for a part of it put a CSV of image and wnid in its place",
        )
    numbers = [_NUMBERED.match(image.name) for image in images]
    if odd := next(
        (i for i, (n, image) in enumerate(zip(numbers, images, strict=True)) if n and int(n[1]) != i + 1), None
    ):
        raise DataError(
            f"{path}: image {odd + 1} is {images[odd].name}: not the images 1 to {len(images)}",
            "restore the folder, or put a CSV of image and wnid in its place",
        )
    if all(WNID.fullmatch(line) for line in lines):
        return list(lines)
    if not all(re.fullmatch(r"\d{1,4}", line) and 1 <= int(line) <= 1000 for line in lines):
        odd_line = next(
            k for k, line in enumerate(lines) if not re.fullmatch(r"\d{1,4}", line) or not 1 <= int(line) <= 1000
        )
        raise DataError(f"{path}:{odd_line + 1}: {lines[odd_line][:40]!r} is no class from 1 to 1000", _FORMS)
    tables = [folder / name for name in FILES for folder in folders if (folder / name).is_file()]
    if not tables:
        raise DataError(
            f"{path}: numbers classes as the development kit does, which is not the order of published weights",
            f"put the kit's {' or '.join(FILES)} beside it",
        )
    order = class_order(tables[0])
    return [order[int(line)] for line in lines]


def _by_name(path: Path, lines: Sequence[str], images: Sequence[Path]) -> list[str]:
    """Rows of an image and its class: a wnid, or a number in the order of published weights, from 0."""
    try:
        rows = [row for row in (csv.reader(lines) if path.suffix == ".csv" else map(str.split, lines)) if row]
    except csv.Error as exc:
        raise DataError(f"{path}: not a CSV ({exc})", _FORMS) from exc
    if path.suffix == ".csv" and rows and not _is_class(rows[0][-1]):
        rows = rows[1:]
    classes: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name, found = Path(row[0]).stem, row[1].split() if len(row) > 1 else []
        if not found or not _is_class(found[0]) or len({word for word in found if WNID.fullmatch(word)}) > 1:
            raise DataError(f"{path}: row {number}: {','.join(row)[:60]!r} is not an image and its one class", _FORMS)
        if name in classes:
            raise DataError(f"{path}: row {number}: {name} has its class above already", "name each image once")
        classes[name] = found[0]
    if missing := next((image for image in images if image.stem not in classes), None):
        raise DataError(f"{path}: says nothing of {missing}", "add a row, or move the image away")
    if len(classes) != len(images):
        stems = {image.stem for image in images}
        absent = next(name for name in classes if name not in stems)
        raise DataError(
            f"{path}: {len(classes)} rows, and {images[0].parent} has {len(images)} images: {absent} is not there",
            "restore the images, or remove the rows",
        )
    return _counted_from_zero(path, [classes[image.stem] for image in images])


def _counted_from_zero(path: Path, classes: list[str]) -> list[str]:
    if all(WNID.fullmatch(c) for c in classes):
        return classes
    from edgecnn.zoo import imagenet_classes

    wnids = imagenet_classes()[1]
    if any(WNID.fullmatch(c) for c in classes) or "0" not in classes or not all(int(c) < 1000 for c in classes):
        raise DataError(f"{path}: its numbers are not surely those of the classes from 0 to 999", "write wnids")
    return [wnids[int(c)] for c in classes]


def _is_class(text: str) -> bool:
    words = text.split()
    return bool(words) and (WNID.fullmatch(words[0]) is not None or re.fullmatch(r"\d{1,4}", words[0]) is not None)
