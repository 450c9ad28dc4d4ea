"""Ten-crop evaluation: the four corners and the centre, and their mirror images, their probabilities averaged.

Krizhevsky et al. 2012, section 4.1. What competitions report; no engine does it, so it is an upper reference only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import MeasurementError
from edgecnn.measure.predict import Predictions
from edgecnn.session import class_probabilities

PLACES = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5))  # left to right, top to bottom


@dataclass(frozen=True)
class CropAt(Preprocessing):
    """A preprocessing whose crop stands elsewhere: `place` is its share of the free width and height."""

    place: tuple[float, float] = (0.5, 0.5)
    mirror: bool = False

    def crop_image(self, image: Image.Image) -> Image.Image:
        """As `Preprocessing.crop_image`, at `place`, mirrored if asked."""
        image, (height, width) = self.resized(image), self.size
        left, top = round((image.width - width) * self.place[0]), round((image.height - height) * self.place[1])
        image = image.crop((left, top, left + width, top + height))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirror else image


def ten_crops(dataset: Dataset) -> list[Dataset]:
    """The data set ten times, each with its crop; raises `MeasurementError` where the crop is the whole image."""
    known = dataset.preprocessing
    if known is None or dataset.image is None:
        raise MeasurementError(
            f"{dataset.name}: its images are cropped already", "name pictures: an image folder, or a data set"
        )
    if known.resize == known.crop or known.squash:
        raise MeasurementError(
            f"{dataset.name}: resize {known.resize} = crop {known.crop} leaves no corners for ten crops",
            "leave --tta out: there is nothing to average",
        )
    facts = {name: getattr(known, name) for name in Preprocessing.__dataclass_fields__}
    return [
        replace(dataset, preprocessing=CropAt(**facts, place=place, mirror=mirror))
        for mirror in (False, True)
        for place in PLACES
    ]


@dataclass(frozen=True)
class TenCrop:
    """Top-1 and top-5 (None for five classes or fewer) in per cent of `ten_crop_n` labelled images.

    An image with a crop whose logits are not finite counts as wrong; `ten_crop_nan_count` is how many there are.
    """

    ten_crop_top1_pct: float
    ten_crop_top5_pct: float | None
    ten_crop_n: int
    ten_crop_nan_count: int


@dataclass(frozen=True)
class ViewShares:
    """Top-1 and top-5 (None for five classes or fewer) in per cent of `n` labelled images, those with a view whose
    logits are not finite (`nan_count`) as wrong."""

    top1_pct: float
    top5_pct: float | None
    n: int
    nan_count: int


def measure_ten_crop(dataset: Dataset, run: Callable[[Dataset], Predictions]) -> TenCrop:
    """Top-1 and top-5 by the mean of the probabilities that `run` predicts for each of the ten crops."""
    found = measure_views(ten_crops(dataset), run)
    return TenCrop(found.top1_pct, found.top5_pct, found.n, found.nan_count)


def measure_views(views: Sequence[Dataset], run: Callable[[Dataset], Predictions]) -> ViewShares:
    """Top-1 and top-5 by the mean of the probabilities that `run` predicts for each of several views of the same
    images; raises `MeasurementError` where none has a label."""
    total: Any = 0.0
    for view in views:
        found = run(view)
        total = total + class_probabilities(found.logits, found.threshold, found.output)
    known = found.labels >= 0
    if not known.any():
        raise MeasurementError(f"{views[0].name}: has no labels", "accuracy over several crops needs labelled images")
    finite = np.isfinite(total[known]).all(1)
    ranked = np.argsort(-total[known], axis=1, kind="stable")[:, :5]
    hits = (ranked == found.labels[known][:, None]) & finite[:, None]
    return ViewShares(
        top1_pct=100 * float(hits[:, 0].mean()),
        top5_pct=100 * float(hits.any(1).mean()) if found.classes > 5 else None,
        n=int(known.sum()),
        nan_count=int((~finite).sum()),
    )
