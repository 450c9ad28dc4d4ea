"""Multi-scale evaluation: the picture resized to several sizes, the crop of the network's input of each, and the
probabilities averaged.

Simonyan and Zisserman 2015, section 4.2; with ten crops at each size as Szegedy et al. 2015, section 7. No engine does
it in one query, so it is an upper reference only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgecnn.data.dataset import Dataset
from edgecnn.errors import MeasurementError
from edgecnn.limits import RESIZED_PIXELS
from edgecnn.measure.predict import Predictions
from edgecnn.measure.ten_crop import measure_views, ten_crops


@dataclass(frozen=True)
class MultiScale:
    """Top-1 and top-5 (None for five classes or fewer) in per cent of `multi_scale_n` labelled images, over
    `multi_scale_crops` crops at each of the sizes that the short side had, pixels.

    An image with a crop whose logits are not finite counts as wrong; `multi_scale_nan_count` is how many there are.
    """

    multi_scale_sizes_px: tuple[int, ...]
    multi_scale_crops: int
    multi_scale_top1_pct: float
    multi_scale_top5_pct: float | None
    multi_scale_n: int
    multi_scale_nan_count: int


def at_scales(dataset: Dataset, sizes: Sequence[int]) -> list[Dataset]:
    """The data set with its pictures' short side brought to each of `sizes`, pixels; raises `MeasurementError` for
    sizes that the crop does not fit in, or that are named twice."""
    known = dataset.preprocessing
    if known is None or dataset.image is None:
        raise MeasurementError(
            f"{dataset.name}: its images are cropped already", "name pictures: an image folder, or a data set"
        )
    if known.squash:
        raise MeasurementError(
            f"{dataset.name}: its pictures are squashed to the network's size: there is no other scale",
            "leave --scales out",
        )
    shown = ", ".join(map(str, sizes))
    if len(set(sizes)) != len(sizes) or len(sizes) < 2:
        raise MeasurementError(f"scales {shown}: at least two different ones", "for example --scales 224,256,288")
    if min(sizes) < max(known.size):
        raise MeasurementError(
            f"scale {min(sizes)}: the crop of {max(known.size)} pixels does not fit in", "name larger ones"
        )
    if max(sizes) ** 2 > RESIZED_PIXELS:
        raise MeasurementError(
            f"scale {max(sizes)}: a picture is resized to at most {math.isqrt(RESIZED_PIXELS)} pixels a side",
            "name smaller ones",
        )
    return [replace(dataset, preprocessing=replace(known, resize=size)) for size in sizes]


def measure_multi_scale(
    dataset: Dataset, sizes: Sequence[int], run: Callable[[Dataset], Predictions], *, ten_crop: bool = False
) -> MultiScale:
    """Top-1 and top-5 by the mean of the probabilities that `run` predicts at each of `sizes`, of the center crop or of
    ten."""
    views = [view for scaled in at_scales(dataset, sizes) for view in (ten_crops(scaled) if ten_crop else [scaled])]
    found = measure_views(views, run)
    return MultiScale(tuple(sizes), len(views) // len(sizes), found.top1_pct, found.top5_pct, found.n, found.nan_count)
