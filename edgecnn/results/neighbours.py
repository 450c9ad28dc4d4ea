"""What lies near an image among the features of others."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Neighbour:
    """An image of the index, and the cosine between its centered vector and that of the image that was asked for."""

    __pydantic_config__ = STRICT

    image: str
    split: str
    label_name: str
    cosine: float


@dataclass(frozen=True)
class NearDuplicate:
    """A training and a test image with nearly the same vector, or of the `same_file`."""

    __pydantic_config__ = STRICT

    train_image: str
    test_image: str
    cosine: float
    same_file: bool


@dataclass(frozen=True)
class Disagreement:
    """An image most of whose `k` nearest training images, `votes` of them, bear another label than its own."""

    __pydantic_config__ = STRICT

    image: str
    split: str
    label_name: str
    neighbours_label_name: str
    votes: int
    k: int


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of `image`, and what the whole index says of its images. With `near_checked` false,
    strangers within the training images are as alike as near-duplicates: then only the same files are told."""

    __pydantic_config__ = STRICT

    image: str
    split: str
    label_name: str
    n_train: int
    n_test: int
    nearest: tuple[Neighbour, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    near_checked: bool
    disagreements: tuple[Disagreement, ...]
