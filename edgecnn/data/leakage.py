"""Leakage: images of one data set that are in another, as the same file or as nearly the same picture.

The same file is found by sha256; near-duplicates (another size, quality or small crop) by a difference hash of 64 bits
(dHash), confirmed on small grey pictures.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecnn.data.dataset import Dataset
from edgecnn.machine.threads import open_pool

HASH_DISTANCE = 10  # of 64 bits: candidates
SAME_PICTURE = 0.985  # correlation of 16 x 16 grey thumbnails, after removing the mean
STRANGER_SHARE = 0.01  # pairs of different pictures that may look alike by chance before the test says nothing

Pair = tuple[str, str]


def find_duplicates(calibration: Dataset, test: Dataset) -> tuple[Pair, ...]:
    """(calibration image, test image) of every file that is in both."""
    position = {test.sha256(k): k for k in range(len(test))}
    found = ((k, position.get(calibration.sha256(k))) for k in range(len(calibration)))
    return tuple((calibration.ids[k], test.ids[j]) for k, j in found if j is not None)


def count_repeated(dataset: Dataset) -> int:
    """How many images are copies of another one in the same set."""
    return len(dataset) - len({dataset.sha256(k) for k in range(len(dataset))})


def find_near_duplicates(calibration: Dataset, test: Dataset, same: Collection[Pair]) -> tuple[tuple[Pair, ...], bool]:
    """Pairs of nearly the same picture, but for those of the `same` file, and whether the test could tell: on tiny
    pictures (8 x 8 digits) strangers look alike too, which shows within the calibration set itself."""
    if calibration.image is None or test.image is None:
        return (), False
    ours, theirs = _thumbnails(calibration), _thumbnails(test)
    within = [pair for pair in _alike(ours, ours) if pair[0] < pair[1]]
    if len(within) > STRANGER_SHARE * len(calibration):
        return (), False
    pairs = ((calibration.ids[a], test.ids[b]) for a, b in _alike(ours, theirs))
    return tuple(pair for pair in pairs if pair not in same), True


def _thumbnails(dataset: Dataset) -> npt.NDArray[np.float32]:
    """[N, 16 x 18] grey values of every image."""

    def small(index: int) -> npt.NDArray[np.float32]:
        assert dataset.image is not None
        picture = dataset.image(index).convert("L").resize((18, 16), Image.Resampling.BOX)
        return np.asarray(picture, np.float32).reshape(-1)

    with open_pool(4) as pool:
        return np.stack(list(pool.map(small, range(len(dataset)))))


def _alike(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Positions of pairs whose difference hashes and thumbnails agree."""
    left, right = _hashes(ours), _hashes(theirs)
    a, b = _standardised(ours), _standardised(theirs)
    found = []
    for k in range(len(left)):
        near = np.flatnonzero(_BITS[left[k] ^ right].sum(axis=1) <= HASH_DISTANCE)
        found += [(k, int(j)) for j in near if float(a[k] @ b[j]) >= SAME_PICTURE]
    return found


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)


def _hashes(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """[N, 8] bytes: whether each of 8 x 8 cells is brighter than its right neighbour (dHash)."""
    cells = thumbnails.reshape(-1, 8, 2, 9, 2).mean(axis=(2, 4))
    return np.packbits((cells[:, :, :-1] > cells[:, :, 1:]).reshape(len(cells), 64), axis=1)


def _standardised(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), np.float32)
