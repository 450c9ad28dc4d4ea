"""Scales of activations and integer codes of weights: the numbers behind Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.calibration.thresholds import interval, threshold
from edgecnn.graph.qdq.placement import Placement

Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.floating[Any]]

FP16_SMALLEST = 2.0**-14  # the smallest normal FP16 number: a smaller scale loses bits, or is flushed to zero
FP16_LARGEST = 65504.0 / 128  # of a scale: the largest code times it is an FP16 number too
NOTICED = 1.0 / 32  # of a channel: what a scale raised to FP16_SMALLEST may change in it
FP32_SMALLEST = 1e-30
HARMLESS = 1.0 / 127  # the scale of a channel that is zero throughout
_PIECE = 1 << 17  # values that are searched together


@dataclass(frozen=True)
class Scale:
    """One Q/DQ pair: x is stored as round(x / scale) + zero, clipped to int8 or uint8."""

    scale: float
    zero: int = 0
    unsigned: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value that it represents."""
        first, last = (0, 255) if self.unsigned else (-128, 127)
        return (first - self.zero) * self.scale, (last - self.zero) * self.scale

    def applied(self, values: Array) -> Array:
        """Quantised and dequantised, as QuantizeLinear and DequantizeLinear do it (ties to even)."""
        first, last = (0, 255) if self.unsigned else (-128, 127)
        codes = np.clip(np.rint(values / np.float32(self.scale)) + self.zero, first, last)
        return np.asarray((codes - self.zero) * np.float32(self.scale), np.float32)


@dataclass(frozen=True)
class WeightCodes:
    """An initialiser as int8: `codes` in its shape, `scale` [channels of `axis`] (or [1] without one)."""

    codes: Codes
    scale: Array
    axis: int | None

    @property
    def in_fp16(self) -> bool:
        """Whether all scales are normal FP16 numbers."""
        return bool((self.scale == np.clip(self.scale, FP16_SMALLEST, FP16_LARGEST).astype(np.float16)).all())

    def values(self) -> Array:
        """What DequantizeLinear makes of them."""
        return np.multiply(self.codes, _along(self.scale, self.axis, self.codes.ndim), dtype=np.float32)


def grouped(placement: Placement, tensors: Mapping[str, TensorStatistics]) -> dict[str, TensorStatistics]:
    """The statistics of every group of tensors that share a scale."""
    groups: dict[str, TensorStatistics] = {}
    for quantized in placement.activations:
        one = tensors[quantized.tensor]
        extremes = np.array([one.low], np.float32), np.array([one.high], np.float32)
        one = replace(one, channel_low=extremes[0], channel_high=extremes[1], channel_sum=np.zeros(1, np.int64))
        if quantized.group in groups:
            groups[quantized.group].merge(one)
        else:
            groups[quantized.group] = replace(one, name=quantized.group, positive=one.positive.copy())
    return groups


def scale_by_method(statistics: TensorStatistics, method: str, style: str) -> Scale:
    """The scale of one group by a range method. A tensor that is always zero gets a harmless one."""
    if statistics.largest == 0.0:
        return Scale(HARMLESS, 0, style == "cpu")
    method = "minmax" if statistics.low == statistics.high else method
    if style == "tensorrt":
        return Scale(threshold(statistics, method) / 127)
    low, high = interval(statistics, method)
    return unsigned_scale(low, high)


def unsigned_scale(low: float, high: float) -> Scale:
    """A uint8 scale and zero point for [low, high], which holds zero."""
    scale = max((high - low) / 255, FP32_SMALLEST)
    return Scale(scale, int(np.clip(round(-low / scale), 0, 255)), True)


def scaled_for(scale: Scale, half: bool) -> Scale:
    """The scale as the graph will hold it: rounded to FP16 with `half` if it can be, else to float32."""
    rounds = half and FP16_SMALLEST <= scale.scale <= FP16_LARGEST
    return replace(scale, scale=float(weight_scales(np.array([scale.scale]), rounds)[0]))


def fp16_holds(rows: Floats, tolerated: Floats | float = NOTICED) -> bool:
    """Whether the scales of the weights [channels, n] can all be normal FP16 numbers.

    A channel whose own scale would be smaller gets the smallest of them, and coarser codes: it can where the share of
    its weights that this loses is `tolerated` [channels].
    """
    scale = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)) / 127
    if scale.max(initial=0.0) > FP16_LARGEST:
        return False
    small = (scale > 0) & (scale < FP16_SMALLEST)
    fine = rows[small].astype(np.float64)
    lost = np.abs(fine - np.rint(fine / FP16_SMALLEST) * FP16_SMALLEST).sum(axis=1)
    return bool((lost <= np.broadcast_to(tolerated, scale.shape)[small] * np.abs(fine).sum(axis=1)).all())


def weight_codes(
    weight: Array, axis: int | None, half: bool, *, search: bool, tolerated: Floats | float = NOTICED
) -> WeightCodes:
    """Round `weight` to int8 with one symmetric scale per channel of `axis`; with `half` FP16 numbers if they can be.

    `tolerated` is that of `fp16_holds`. With `search` each scale is the one of least squared error among shrunken
    ranges, else it is max|w| / 127.
    """
    rows = _rows(weight, axis)
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1)) if rows.size else np.zeros(len(rows), np.float32)
    scale = np.where(largest > 0, largest / 127, HARMLESS).astype(np.float32)
    half = half and fp16_holds(rows, tolerated)
    if search:
        scale = _least_squares_scales(rows, scale)
    return rounded(weight, weight_scales(scale, half), axis)


def weight_scales(scale: npt.NDArray[np.floating[Any]], half: bool) -> Array:
    """Scales as the graph will hold them; with `half`, normal FP16 numbers."""
    if half:
        return np.asarray(np.clip(scale, FP16_SMALLEST, FP16_LARGEST).astype(np.float16), np.float32)
    return np.asarray(np.maximum(scale, FP32_SMALLEST), np.float32)


def rounded(weight: Array, scale: Array, axis: int | None) -> WeightCodes:
    """`weight` rounded to the nearest code of `scale`."""
    codes = weight / _along(scale, axis, weight.ndim)
    np.clip(np.rint(codes, out=codes), -127, 127, out=codes)
    return WeightCodes(codes.astype(np.int8), scale, axis)


def _least_squares_scales(rows: Array, scale: Array) -> Array:
    """The one of 31 shares of each row's `scale` with the least squared error, in pieces that stay in the cache."""
    chosen: Array = scale.copy()
    step = max(1, _PIECE // max(rows.shape[1], 1))
    space = np.empty((min(step, len(rows)), rows.shape[1]), np.float32)
    for start in range(0, len(rows), step):
        part, whole = rows[start : start + step], scale[start : start + step]
        error = space[: len(part)]
        best = np.full(len(part), np.inf)
        for share in np.linspace(1.0, 0.7, 31, dtype=np.float32):
            tried = (whole * share).astype(np.float32)
            np.divide(part, tried[:, None], out=error)
            np.clip(np.rint(error, out=error), -127, 127, out=error)
            error *= tried[:, None]
            np.subtract(part, error, out=error)
            lost = np.square(error, out=error).sum(axis=1)
            better = lost < best
            best[better] = lost[better]
            chosen[start : start + step][better] = tried[better]
    return chosen


def _rows(weight: Array, axis: int | None) -> Array:
    return weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def _along(scale: Array, axis: int | None, rank: int) -> Array:
    return scale.reshape([-1 if k == axis else 1 for k in range(rank)])
