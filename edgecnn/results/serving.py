"""What the serving side's geometry costs."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.contract import Geometry
from edgecnn.records import STRICT


@dataclass(frozen=True, kw_only=True)
class ServingLoss:
    """One engine on images that are resized and cropped as `serving_geometry` says, against itself on the same images
    by the preprocessing of its network.

    Shares in per cent of `serving_n` images, the drop in percentage points with its two-sided 95 % interval, paired;
    None without labels.
    """

    __pydantic_config__ = STRICT

    serving_geometry: Geometry
    serving_n: int
    serving_n_labelled: int
    serving_top1_pct: float | None
    serving_drop_pp: float | None
    serving_drop_ci_pp: tuple[float, float] | None
    serving_lost: int | None
    serving_gained: int | None
    serving_agreement_pct: float
