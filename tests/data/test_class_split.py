"""Splits by class: no part shares a class with another, and what makes no pairs is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgecnn.data.class_split import PAIR_IMAGES, images_for_pairs, of_classes, require_twos, split_classes
from edgecnn.data.dataset import Dataset
from edgecnn.errors import DataError, RecipeError
from edgecnn.recipe.verification import VerificationSettings

TEN = [str(k) for k in range(10)]


def images(labels: list[int], names: list[str]) -> Dataset:
    ids = tuple(f"{k:05d}" for k in range(len(labels)))
    return Dataset("some", ids, np.array(labels), tuple(names), None, lambda k: b"", None)


def test_a_fifth_of_the_classes_each_is_held_out_and_named_ones_as_they_are_named() -> None:
    found = split_classes("some", TEN, VerificationSettings())
    parts = (found.train, found.validation, found.test)
    assert [len(part) for part in parts] == [6, 2, 2]
    assert sorted(name for part in parts for name in part) == TEN
    assert split_classes("some", TEN[::-1], VerificationSettings()).test == found.test[::-1]  # by name, not by place
    named = split_classes(
        "some", TEN, VerificationSettings(validation_classes=("9", "1"), test_classes=("0", "2", "3"))
    )
    assert (named.validation, named.test) == (("1", "9"), ("0", "2", "3"))
    half = split_classes("some", TEN, VerificationSettings(test_classes=("0", "1", "2")))
    assert not {*half.validation} & {"0", "1", "2"}


@pytest.mark.parametrize(
    ("names", "settings", "error", "said"),
    [
        (["cat"], {}, DataError, r"one class only \(cat\)"),
        (TEN[:5], {}, DataError, "5 classes"),
        (TEN, {"test_classes": ("0", "tow")}, RecipeError, "the class 'tow'"),
        (TEN, {"test_classes": tuple(TEN[:7])}, DataError, "1 of 10 classes are left to train on"),
    ],
)
def test_too_few_classes_are_refused(
    names: list[str], settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        split_classes("some", names, replace(VerificationSettings(), **settings))


def test_a_class_of_one_image_and_images_of_one_class_make_no_pairs() -> None:
    with pytest.raises(DataError, match="the class 'b' has one image"):
        require_twos(images([0, 0, 1, 2, 2], ["a", "b", "c"]))
    with pytest.raises(DataError, match=r"one class only \(c\)"):
        require_twos(images([2, 2], ["a", "b", "c"]))
    assert of_classes(images([0, 0, 1, 2, 2], ["a", "b", "c"]), ["c", "a"]).ids == ("00000", "00001", "00003", "00004")


def test_pairs_of_many_images_are_of_some_spread_over_their_classes() -> None:
    many = images_for_pairs(images([k % 3 for k in range(3000)], ["a", "b", "c"]))
    assert len(many) == PAIR_IMAGES
    assert many.labels is not None
    assert np.bincount(many.labels).tolist() == [200, 200, 200]
    people = images_for_pairs(images([k // 4 for k in range(2000)], [f"p{k}" for k in range(500)]))
    assert people.labels is not None
    assert set(np.unique(people.labels, return_counts=True)[1].tolist()) == {4}  # whole classes, not one image of each
