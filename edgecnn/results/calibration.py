"""Whether images are fit to calibrate with."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class CalibrationCheck:
    """What was found. `duplicates` and `near_duplicates` are pairs (calibration image, test image). `range_spread`
    is the standard deviation of a tensor's range over resampled sets, `noise_excess` the squared rounding and clipping
    error that these ranges add on average, both in per cent; medians over the tensors, and the tensor that is worst
    by its excess. `test_distance` is the energy distance of the logits from those of the test images (0: the same, at
    most 1; None: too few images, or no graph)."""

    __pydantic_config__ = STRICT

    n: int
    test_n: int
    duplicates: tuple[tuple[str, str], ...]
    near_duplicates: tuple[tuple[str, str], ...]
    near_duplicates_checked: bool
    repeated: int
    classes: int | None
    classes_covered: int | None
    classes_missing: tuple[str, ...]
    range_method: str | None
    range_spread_pct_median: float | None
    noise_excess_pct_median: float | None
    noise_excess_pct_worst: float | None
    worst_tensor: str | None
    suggested_n: int | None
    test_distance: float | None
    problems: tuple[str, ...]
