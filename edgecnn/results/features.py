"""What an engine's features are against those of the graph that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class FeatureAgreement:
    """One output over `n` images: signal to quantization noise of all values, and the cosine between the two, image by
    image and flattened: its mean and the smallest. Images with a value that is not finite are counted in `nan_count`
    alone. None where no noise was found, or there is no image to tell by."""

    __pydantic_config__ = STRICT

    name: str
    shape: tuple[int, ...]
    n: int
    nan_count: int
    sqnr_db: float | None
    cosine_mean: float | None
    cosine_min: float | None
    worst_image: str


@dataclass(frozen=True)
class FeaturesAgreement:
    """The outputs of an engine called `name` over the images `data`, in the order of its sidecar."""

    __pydantic_config__ = STRICT

    name: str
    data: str
    n: int
    unreadable: tuple[str, ...]
    outputs: tuple[FeatureAgreement, ...]
