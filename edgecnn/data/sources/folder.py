"""Folders of image files: one for each class, or images alone."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgecnn.data.dataset import Dataset, Split, nfc
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.listing import entries
from edgecnn.data.sources.quiet import quiet_pillow
from edgecnn.errors import DataError, nearest
from edgecnn.limits import open_regular, read_file, require_pixels
from edgecnn.output import say

IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".pnm", ".pbm", ".gif", ".avif",
}  # fmt: skip
OTHER_PICTURES = {
    "",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".j2k",
    ".tga",
    ".svg",
    ".pcx",
    ".psd",
    ".ico",
    ".exr",
    ".hdr",
    ".dds",
    ".dcm",
    ".npy",
    ".raw",
    ".dng",
    ".nef",
    ".cr2",
    ".arw",
    ".part",
    ".crdownload",
}  # fmt: skip; "" is a name without an ending
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "PPM", "GIF", "AVIF")  # EPS would start Ghostscript
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}


def split_folder(root: Path, split: Split) -> Path:
    """The folder of a split below `root`, or `root` itself where it has no split folders; raises `DataError` where it
    has those of other splits alone, or where what is called after a split may be a class."""
    found, others = _split_folders(root)
    wanted = SPLIT_FOLDERS[split]
    if folder := next((found[n] for n in wanted if n in found), None):
        return folder
    if found and not others:
        raise DataError(
            f"{root}: holds {', '.join(found)}, but no folder {' or '.join(wanted)}",
            f"add it, or name the folder whose images are meant, such as {next(iter(found.values()))}",
        )
    return root


def has_test_folder(root: Path) -> bool:
    """Whether a folder has test images of its own; raises `DataError` as `split_folder` does."""
    return any(name in _split_folders(root)[0] for name in SPLIT_FOLDERS["test"])


def _split_folders(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """(folders of splits by name, the other folders): one with images in it, beside others, is a class called after a
    split. Raises `DataError` where either may be meant."""
    folders = sorted(root / e.name for e in entries(root) if e.is_folder and not is_hidden(e.name))
    names = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    found = {p.name: p for p in folders if p.name in names}
    others = [p for p in folders if p.name not in names]
    if not found or not others:
        return found, others
    loose = [p for p in found.values() if any(_is_image(e.name) and not is_hidden(e.name) for e in entries(p))]
    if loose and len(found) == 1:
        return {}, folders
    both = {names[name] for name in found} == set(SPLIT_FOLDERS)
    if loose or (not both and any(image_names(p) for p in others)):
        raise DataError(
            f"{root}: {', '.join(found)} beside {others[0].name}: splits, or classes called so",
            "move the other folders away, or put the folders of all classes into one called train or test",
        )
    return found, others


def is_hidden(name: str) -> bool:
    """Whether a file or folder is an editor's, an archive's or a file system's own, no image and no class."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def image_folder(
    root: Path, preprocessing: Preprocessing, split: Split, labels: Sequence[str], wnids: Sequence[str]
) -> Dataset:
    """One folder of images for each class; or images alone, which have no labels. Raises `DataError`.

    Classes are matched by name, in Unicode's composed form (NFC).
    """
    folder = split_folder(root, split)
    shown = [e for e in entries(folder) if not is_hidden(e.name)]
    classes = sorted((e.name for e in shown if e.is_folder), key=nfc)
    left_out = [e.name for e in entries(folder) if is_hidden(e.name) and (e.is_folder or _is_image(e.name))]
    images = _in_order(e.name for e in shown if _is_image(e.name) and not e.is_folder)
    if classes and images:
        raise DataError(f"{folder}: {images[0]} lies beside class folders", "move it into the folder of its class")
    left_out += [e.name for e in shown if _is_other_picture(e.name) and not e.is_folder]
    if not classes and not images:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{folder}: no images ({kinds})", "put images there, in one folder for each class")
    names = [nfc(c) for c in classes]
    position = class_positions(folder, names, labels, wnids)
    targets: list[int] = []
    for c in classes:
        found, others = _listing(folder / c)
        if not found:
            raise DataError(f"{folder / c}: a class without images", "add images to it, or remove the folder")
        images += [f"{c}/{name}" for name in found]
        targets += [position[nfc(c)]] * len(found)
        left_out += [f"{c}/{name}" for name in others]
    _say_left_out(folder, tuple(sorted(left_out)))
    return Dataset(
        name=f"{root.name}-{split}" if folder != root else root.name,
        ids=ids_of(folder, images),
        labels=np.array(targets, np.int64) if classes else None,
        label_names=tuple(labels or wnids or names) or None,
        preprocessing=preprocessing,
        content=lambda i: file_bytes(folder / images[i]),
        image=lambda i: decode(folder / images[i]),
        by_position=bool(classes) and not labels and not wnids,
    )


def image_names(folder: Path) -> list[str]:
    """Every image below `folder` that is not hidden, by its path there."""
    return _listing(folder)[0]


def image_marks(folder: Path) -> Iterator[str]:
    """What changes when the images below `folder` do: their paths there and their sizes."""
    return (f"{name} {(folder / name).stat().st_size}" for name in image_names(folder))


def ids_of(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The ids of images: their paths in `folder`, in NFC; raises `DataError` for two of one id."""
    ids = tuple(map(nfc, names))
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(
            f"{folder}: two images are called {twice!r}, one with its accents taken apart (NFD)", "rename one of them"
        )
    return ids


def has_class_folders(folder: Path) -> bool:
    """Whether a folder has folders in it that may be classes."""
    return any(e.is_folder and not is_hidden(e.name) for e in entries(folder))


def how_to_sort(listed: Path) -> str:
    """The line that makes class folders of a list of pictures and their classes."""
    rows = f"tail -n +2 {listed} | tr -d '\\r' | tr , ' ' |" if listed.suffix.lower() == ".csv" else f"cat {listed} |"
    return (
        "a list of pictures and classes becomes class folders by links, with PICTURES as the folder it counts from: "
        f'{rows} while read f c; do mkdir -p "sorted/$c" && ln -s "$(realpath "PICTURES/$f")" "sorted/$c/"; done'
    )


def _suffix(name: str) -> str:
    """As `Path.suffix`, which would keep every name a second time: paths intern their parts."""
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def _is_image(name: str) -> bool:
    return _suffix(name) in IMAGE_SUFFIXES


def _is_other_picture(name: str) -> bool:
    return _suffix(name) in OTHER_PICTURES


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """(images, hidden images and folders and pictures of other kinds) below `folder`, by their paths there."""
    images: list[str] = []
    left_out: list[str] = []
    for name, is_folder, is_link in entries(folder):
        hidden = is_hidden(name)
        if is_folder and not is_link:
            found = ([], [""]) if hidden else _listing(folder / name)
            images += [f"{name}/{below}" for below in found[0]]
            left_out += [f"{name}/{below}".removesuffix("/") for below in found[1]]
        elif _is_image(name):
            (left_out if hidden else images).append(name)
        elif _is_other_picture(name) and not hidden:
            left_out.append(name)
    return _in_order(images), left_out


def _in_order(names: Iterable[str]) -> list[str]:
    """Folder by folder by name, the same whether letters and accents are together or apart."""
    return sorted(names, key=lambda name: nfc(name).replace("/", "\0"))


@functools.cache
def _say_left_out(folder: Path, names: tuple[str, ...]) -> None:
    """One line on stderr, once for each folder of a process."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"{folder}: left out, hidden or of a kind that is not read: {', '.join(names[:3])}{more}")


def class_positions(folder: Path, names: Sequence[str], labels: Sequence[str], wnids: Sequence[str]) -> dict[str, int]:
    """The output of each class; raises `DataError` for one that the model does not have."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"{folder}: two class folders are called {twice[0]!r}, one with its accents taken apart (NFD)", "merge them"
        )
    if not labels and not wnids:
        return {name: k for k, name in enumerate(names)}
    labels, wnids = [nfc(name) for name in labels], [nfc(name) for name in wnids]
    for known in (wnids, labels):
        table = {name: k for k, name in enumerate(known)}
        if all(name in table for name in names):
            count = Counter(known)
            if twice := [name for name in names if count[name] > 1]:
                raise DataError(
                    f"{folder}: {twice[0]!r} is the name of {count[twice[0]]} classes", "name the folder by wnid"
                )
            return {name: table[name] for name in names}
    known = wnids if any(name in set(wnids) for name in names) else labels
    missing = [name for name in names if name not in set(known)]
    raise DataError(
        f"{folder}: class {missing[0]!r} is not one of the model's {len(labels) or len(wnids)} classes",
        nearest(missing[0], known) or "name the class folders as the model's labels or as wnids",
    )


def decode(path: Path) -> Image.Image:
    """One image file, decoded, of 8 bits a channel; raises `DataError` that names it."""
    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            require_pixels(*image.size)
            return _eight_bit(image)
    except MemoryError:  # of the machine, not of the picture: it would be left out in silence
        raise
    except UnidentifiedImageError as exc:  # its text has the address of the open file
        raise DataError(f"{path}: not a readable image (of no known format)", "replace or remove the file") from exc
    except Exception as exc:  # Pillow raises whatever the bytes of a damaged picture come to
        raise DataError(f"{path}: not a readable image ({exc})", "replace or remove the file") from exc


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has."""
    quiet_pillow()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as 8 bits in which white stays white (PNG specification, 13.12, sample depth rescaling), where
    PIL would clip it. Raises `ValueError` for pixels whose white is not known."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen:
        raise ValueError(f"pixels of 32 bits, mode {image.mode}: their white is not known; save 8 or 16 bits")
    image.load()  # JPEG's draft mode, which decodes at half the size or less, would be another antialiasing
    if not sixteen:
        return image
    pixels = np.asarray(image).astype(np.int64)
    return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))


def file_bytes(path: Path) -> bytes:
    """What an image's sha256 is of; raises `DataError` that names it."""
    try:
        return read_file(path)
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror}", "check the data set's folder") from exc
