"""Labeled Faces in the Wild: a folder for each person, and pairs of pictures (Huang et al. 2007).

`lfw:DIR` is a folder with the persons' folders, or with one folder of them, and beside them `pairs.txt`: the number of
folds and of pairs of each kind in a fold, then for each fold lines NAME, K, L (pictures K and L of one person) and as
many lines NAME, K, NAME, L (of two), parted by tabs. Picture K of a person lies in NAME/NAME_000K.jpg.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.folder import decode, file_bytes
from edgecnn.errors import DataError
from edgecnn.limits import read_file

PAIRS = "pairs.txt"
DIGITS = 9  # of a number, at most
LAYOUT = "NAME<tab>K<tab>L, or NAME<tab>K<tab>NAME<tab>L"


def lfw_root(source: str) -> Path | None:
    """The folder behind `lfw:`; None for another source."""
    name, separator, root = source.partition(":")
    return Path(root or ".") if separator and name == "lfw" else None


def lfw_pairs(root: Path) -> list[tuple[str, str, bool]]:
    """(picture, picture, whether both are of one person) of `pairs.txt`; raises `DataError` that names the line."""
    path = root / PAIRS
    try:
        lines = read_file(path).decode().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}", f"lfw:DIR needs LFW's {PAIRS} in the folder") from exc
    head = lines[0].split() if lines else []
    if not 1 <= len(head) <= 2 or not all(map(_is_number, head)):
        raise DataError(f"{path}:1: {(lines or [''])[0][:40]!r} is no number of folds and of pairs", "fetch it again")
    folds, size = (int(head[0]), int(head[1])) if len(head) == 2 else (1, int(head[0]))
    found = [_pair(f"{path}:{number}", line) for number, line in enumerate(lines[1:], 2) if line.strip()]
    of_one, wanted = sum(same for *_, same in found), folds * size
    if (of_one, len(found) - of_one) != (wanted, wanted):
        raise DataError(
            f"{path}: {of_one} pairs of one person and {len(found) - of_one} of two; {wanted} of each are promised in "
            "line 1",
            "fetch it again",
        )
    return found


def _is_number(word: str) -> bool:
    """Whether a count, or what numbers a picture."""
    return word.isdecimal() and len(word) <= DIGITS and int(word) > 0


def _pair(where: str, line: str) -> tuple[str, str, bool]:
    words = line.split("\t")
    if len(words) == 3:
        words = [words[0], words[1], words[0], words[2]]
    elif len(words) != 4:
        raise DataError(f"{where}: {line[:60]!r} is not {LAYOUT}", "fetch it again")
    first, second = (_picture(where, name, k) for name, k in (words[:2], words[2:]))
    if first == second:
        raise DataError(f"{where}: {first} is paired with itself", "fetch it again")
    return first, second, words[0] == words[2]


def _picture(where: str, name: str, k: str) -> str:
    if not _is_number(k.strip()) or "/" in name or name in ("", ".", ".."):
        raise DataError(f"{where}: {name!r}, {k!r}: not a person and the number of a picture", "fetch it again")
    return f"{name}/{name}_{int(k):04d}.jpg"


def lfw(root: Path, preprocessing: Preprocessing | None) -> Dataset:
    """The pictures that the pairs name, labeled by person; raises `DataError` for one that is not there."""
    pairs = lfw_pairs(root)
    ids = tuple(sorted({picture for first, second, _ in pairs for picture in (first, second)}))
    people = sorted({name.partition("/")[0] for name in ids})
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))]
    folder = next((f for f in folders if (f / people[0]).is_dir()), None)
    missing = ids[0] if folder is None else next((i for i in ids if not (folder / i).is_file()), None)
    if folder is None or missing is not None:
        raise DataError(
            f"{folder or root}: no {missing}, which {PAIRS} names",
            "lfw:DIR is a folder with pairs.txt and a folder for each person, or with one folder of these",
        )
    where, position = folder, {name: k for k, name in enumerate(people)}
    return Dataset(
        name="lfw",
        ids=ids,
        labels=np.array([position[i.partition("/")[0]] for i in ids], np.int64),
        label_names=tuple(people),
        preprocessing=preprocessing,
        content=lambda i: file_bytes(where / ids[i]),
        image=lambda i: decode(where / ids[i]),
    )
