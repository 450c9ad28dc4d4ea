"""What a recipe says of embeddings that verify: the section [verification]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval, MinLen

from edgecnn.records import STRICT


@dataclass(frozen=True)
class VerificationSettings:
    """An embedding of unit length in place of classes, where `train.loss` asks for one: two images are of one class
    where its squared distance is at most a threshold (Schroff et al., arXiv:1503.03832). Classes are split: some train,
    pairs of others choose the threshold, pairs of the rest are what is measured on."""

    __pydantic_config__ = STRICT

    embedding: Annotated[int, Interval(ge=1, le=1 << 16)] = 64  # numbers in it: the outputs of the network's last layer
    margin: Annotated[float, Ge(0)] | None = (
        None  # left out: 0.2 of the triplet loss (squared distance), 1 of the contrastive (distance)
    )
    images_per_class: Annotated[int, Ge(2)] = 8  # of a batch, which has train.batch of them in all
    validation_classes: Annotated[tuple[str, ...], MinLen(2)] | None = (
        None  # left out: a fifth of the classes, at least two; the test classes likewise
    )
    test_classes: Annotated[tuple[str, ...], MinLen(2)] | None = None
