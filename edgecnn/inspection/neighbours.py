"""Nearest neighbors among the features of a folder: what resembles an image, what is in both splits, and whose label
its neighbors doubt.

Vectors are centered on the mean of the training images: features behind a ReLU all point the same way.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import file_sha256
from edgecnn.errors import DataError, nearest
from edgecnn.limits import require_regular
from edgecnn.measure.vectors import TEST, TRAIN, Vectors, read_vectors
from edgecnn.results.neighbours import Disagreement, NearDuplicate, Neighbour, Neighbours
from edgecnn.session import Array

NEAR = 0.99  # cosine of centered vectors
STRANGER_SHARE = 0.01  # of training images with such a pair among themselves, beyond which it tells nothing
BLOCK = 1024  # images compared with all training images at once


def neighbours(index: Path | str, image: Path | str, k: int = 6) -> Neighbours:
    """What resembles an image in an index of features, and what the whole index says of its images.

        import edgecnn as ec
        found = ec.neighbours("imgs.npz", "cat/12.jpg")
        print(found.nearest, found.near_duplicates, found.disagreements)

    The `k` training images nearest to `image`, an id of the `index` that `edgecnn features` wrote (SPLIT:ID where
    both splits have it) or a file that is in it; the near-duplicates between the splits; and the images with a label
    that most of their `k` neighbors do not bear.

    Raises `DataError` for an image that is not in the index, `ArtifactError` for a file that is none.
    """
    index, image = Path(index), str(image)
    found = read_vectors(index)
    train = [n for n, split in enumerate(found.splits) if split == TRAIN]
    if len(train) < 2:
        raise DataError(f"{index}: it has {len(train)} training images, and neighbors need two", "index more images")
    if k < 1 or k >= len(train):
        raise DataError(f"-k {k}: the index has {len(train)} training images", f"take from 1 to {len(train) - 1}")
    asked = _position(index, found, image)
    unit = _directions(found.vectors, train)
    order, cosines = _nearest(unit, train, k)
    names = [found.label_names[label] if label >= 0 else "" for label in found.labels]
    near, checked = _near_duplicates(found, unit, train)
    return Neighbours(
        image=found.ids[asked],
        split=found.splits[asked],
        label_name=names[asked],
        n_train=len(train),
        n_test=len(found.ids) - len(train),
        nearest=tuple(
            Neighbour(found.ids[n], found.splits[n], names[n], float(cosine))
            for n, cosine in zip(order[asked], cosines[asked], strict=True)
        ),
        near_duplicates=near,
        near_checked=checked,
        disagreements=_disagreements(found, names, order, k),
    )


def _position(index: Path, found: Vectors, image: str) -> int:
    if Path(image).is_file():
        require_regular(Path(image))
        digest = file_sha256(Path(image))
        places = [n for n, sha in enumerate(found.sha256s) if sha == digest]
    else:
        split, _, rest = image.partition(":")
        places = [n for n, name in enumerate(found.ids) if name == image]
        places = places or [n for n, name in enumerate(found.ids) if (found.splits[n], name) == (split, rest)]
        if len(places) > 1:
            raise DataError(f"{index}: {image!r} is in both splits", f"say which: {TRAIN}:{image} or {TEST}:{image}")
    if not places:
        known = nearest(image, set(found.ids)) or f"for example {found.ids[0]!r}"
        raise DataError(f"{index}: no image {image!r} in it", known)
    return places[0]


def _directions(vectors: Array, train: list[int]) -> Array:
    """Centered vectors of length 1; of one that is the mean itself, zeros."""
    centered = vectors.astype(np.float64) - vectors[train].astype(np.float64).mean(axis=0)
    lengths = np.linalg.norm(centered, axis=1, keepdims=True)
    return np.asarray(centered / np.where(lengths > 0, lengths, 1), np.float32)


def _nearest(unit: Array, train: list[int], k: int) -> tuple[np.typing.NDArray[np.int64], Array]:
    """[N, k] positions of the nearest training images of each image but itself, best first, and their cosines."""
    columns, order, values = np.array(train), [], []
    for start in range(0, len(unit), BLOCK):
        cosines = unit[start : start + BLOCK] @ unit[train].T
        own = np.arange(start, start + len(cosines))[:, None] == columns[None]
        cosines[own] = -np.inf
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        order.append(columns[best])
        values.append(np.take_along_axis(cosines, best, axis=1))
    return np.concatenate(order), np.concatenate(values)


def _near_duplicates(found: Vectors, unit: Array, train: list[int]) -> tuple[tuple[NearDuplicate, ...], bool]:
    test = [n for n, split in enumerate(found.splits) if split == TEST]
    alike = sum(
        int(((unit[train[start : start + BLOCK]] @ unit[train].T) >= NEAR).sum())
        for start in range(0, len(train), BLOCK)
    ) - len(train)
    checked = alike / 2 <= STRANGER_SHARE * len(train)
    pairs = []
    for start in range(0, len(test), BLOCK):
        some = test[start : start + BLOCK]
        cosines = unit[some] @ unit[train].T
        same = np.array([[found.sha256s[n]] for n in some]) == np.array([[found.sha256s[n] for n in train]])
        for a, b in np.argwhere(same | ((cosines >= NEAR) & checked)):
            pairs.append(NearDuplicate(found.ids[train[b]], found.ids[some[a]], float(cosines[a, b]), bool(same[a, b])))
    return tuple(sorted(pairs, key=lambda pair: (-pair.same_file, -pair.cosine))), bool(checked)


def _disagreements(
    found: Vectors, names: list[str], order: np.typing.NDArray[np.int64], k: int
) -> tuple[Disagreement, ...]:
    rows = []
    for n, label in enumerate(found.labels):
        if label < 0:
            continue
        other, votes = Counter(found.labels[order[n]].tolist()).most_common(1)[0]
        if other not in (label, -1) and 2 * votes > k:
            rows.append(Disagreement(found.ids[n], found.splits[n], names[n], found.label_names[other], votes, k))
    return tuple(sorted(rows, key=lambda row: -row.votes))
