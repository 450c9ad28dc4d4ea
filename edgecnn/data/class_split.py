"""Splits by class: classes that train, classes that choose a threshold, and classes that nobody has seen."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from edgecnn.data.dataset import Dataset, spread
from edgecnn.errors import DataError, RecipeError, nearest
from edgecnn.recipe.verification import VerificationSettings

HELD_OUT = 0.2  # share of the classes, for the threshold and for the test each
LEAST = 2  # classes that pairs of different ones need
PAIR_CLASSES, PAIR_IMAGES = 150, 600  # whose pairs are measured: 180 000 of them


@dataclass(frozen=True)
class ClassSplit:
    """Names of classes; no two parts share one."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_classes(source: str, names: Sequence[str], settings: VerificationSettings) -> ClassSplit:
    """The classes of `source` in three parts: those that `settings` name, or a fifth of them by the hash of their
    names. Raises `DataError` for too few of them, and `RecipeError` for a name that is not there.
    """
    if len(names) < 3 * LEAST:
        found = "one class only" if len(names) == 1 else f"{len(names)} classes"
        raise DataError(
            f"{source}: {found} ({', '.join(names)}); {LEAST} each are needed to train, to choose the threshold, and "
            "to test",
            f"name a data set of {3 * LEAST} classes or more: pairs of classes that training saw prove nothing",
        )
    given = (*(settings.validation_classes or ()), *(settings.test_classes or ()))
    if unknown := next((name for name in given if name not in names), None):
        raise RecipeError(
            f"[verification] names the class {unknown!r}, which {source} does not have",
            nearest(unknown, names) or f"its classes are {', '.join(names[:10])}",
        )
    left = sorted((n for n in names if n not in given), key=lambda n: hashlib.sha256(n.encode()).digest())
    count = max(LEAST, round(HELD_OUT * len(names)))
    validation, test = settings.validation_classes, settings.test_classes
    if validation is None:
        validation, left = tuple(left[:count]), left[count:]
    if test is None:
        test, left = tuple(left[:count]), left[count:]
    if len(left) < LEAST:
        raise DataError(
            f"{source}: {len(left)} of {len(names)} classes are left to train on", "hold fewer out in [verification]"
        )
    return ClassSplit(*(tuple(n for n in names if n in part) for part in (left, validation, test)))


def of_classes(dataset: Dataset, names: Collection[str]) -> Dataset:
    """The images of these classes."""
    assert dataset.labels is not None
    wanted = [k for k, name in enumerate(dataset.label_names or ()) if name in names]
    return dataset.subset(np.flatnonzero(np.isin(dataset.labels, wanted)).tolist())


def require_twos(dataset: Dataset) -> Dataset:
    """`dataset`; raises `DataError` for a class with one image, and where fewer than two classes have any."""
    assert dataset.labels is not None
    names = dataset.label_names or ()
    labels, counts = np.unique(dataset.labels, return_counts=True)
    if len(labels) < LEAST:
        found = ", ".join(names[k] for k in labels) or "none"
        raise DataError(
            f"{dataset.name}: images of one class only ({found}), or of none: there are no pairs of different ones",
            "name images of two classes or more",
        )
    if (alone := np.flatnonzero(counts < 2)).size:
        raise DataError(
            f"{dataset.name}: the class {names[labels[alone[0]]]!r} has one image, which makes no pair; so have "
            f"{len(alone) - 1} other classes",
            "add images to these classes, or take their folders away",
        )
    return dataset


def images_for_pairs(dataset: Dataset) -> Dataset:
    """`dataset`, or 600 images of it, as 180 000 pairs take: of 150 classes, spread over them. Raises
    `DataError` as `require_twos` does."""
    require_twos(dataset)
    assert dataset.labels is not None
    names = [(dataset.label_names or ())[k] for k in np.unique(dataset.labels)]
    if len(names) > PAIR_CLASSES:
        chosen = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:PAIR_CLASSES]
        dataset = of_classes(dataset, chosen)
    return dataset if len(dataset) <= PAIR_IMAGES else dataset.subset(spread(dataset, PAIR_IMAGES))
