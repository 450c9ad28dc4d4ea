"""The arithmetic of 8-bit quantization in numpy, and what stands where: the one rounding that all of edgecnn shares.

A tensor x is stored as q = clip(round(x / scale) + zero_point) and read as (q - zero_point) * scale, ties to even, as
ONNX's QuantizeLinear and DequantizeLinear do it (and NVIDIA's "Explicit quantization").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgecnn.results.engine import Scheme

Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Dtype = Literal["int8", "uint8"]
Floats = npt.NDArray[np.floating[Any]]

FP16_SMALLEST = 2.0**-14  # the smallest normal FP16 number: a smaller scale loses bits, or is flushed to zero
FP16_LARGEST = 65504.0 / 128  # of a scale: the largest code times it is an FP16 number too
NOTICED = 1.0 / 32  # of a channel: what a scale raised to FP16_SMALLEST may change in it
FP32_SMALLEST = 1e-30
HARMLESS = 1.0 / 127  # the scale of a channel that is zero throughout
_PIECE = 1 << 17  # values that are searched together


@dataclass(frozen=True)
class QuantParams:
    """How one tensor is stored: x as round(x / scale) + zero_point, clipped to the codes of `dtype`."""

    scale: float
    zero_point: int = 0
    dtype: Dtype = "int8"

    @property
    def codes(self) -> tuple[int, int]:
        """The first and the last code."""
        return (0, 255) if self.dtype == "uint8" else (-128, 127)

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value that it represents."""
        first, last = self.codes
        return (first - self.zero_point) * self.scale, (last - self.zero_point) * self.scale

    def quantize(self, values: Array) -> npt.NDArray[np.floating[Any]]:
        """The codes of `values`, as whole floats."""
        codes = np.rint(values / np.float32(self.scale)) + self.zero_point
        return np.asarray(np.clip(codes, *self.codes))

    def dequantize(self, codes: npt.NDArray[Any]) -> Array:
        """The values that `codes` stand for, float32."""
        return np.asarray((codes.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale))

    def fake_quantize(self, values: Array) -> Array:
        """Quantized and dequantized, float32 (B. Jacob et al., "Quantization and training of neural networks for
        efficient integer-arithmetic-only inference", CVPR 2018)."""
        return np.asarray((self.quantize(values) - self.zero_point) * np.float32(self.scale), np.float32)


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights as int8: `codes` in their shape, `scale` [channels of `axis`] (or [1] without one)."""

    codes: Codes
    scale: Array
    axis: int | None

    @property
    def in_fp16(self) -> bool:
        """Whether all scales are normal FP16 numbers."""
        return bool((self.scale == np.clip(self.scale, FP16_SMALLEST, FP16_LARGEST).astype(np.float16)).all())

    def dequantize(self) -> Array:
        """What DequantizeLinear makes of them."""
        return np.multiply(self.codes, _along(self.scale, self.axis, self.codes.ndim), dtype=np.float32)


@dataclass(frozen=True)
class Edge:
    """Input `index` of the node named `node` (names are unique in a simplified graph); "" is the graph's output."""

    node: str
    index: int


@dataclass(frozen=True)
class QuantizedTensor:
    """One Q/DQ pair on `tensor`, read by `edges`; all tensors of one scale group share one scale."""

    tensor: str
    edges: tuple[Edge, ...]
    scale_group: str


@dataclass(frozen=True)
class QuantizedWeight:
    """An initializer that is input `index` of `node`; `axis` is its channel axis, None for one scale."""

    initializer: str
    node: str
    index: int
    axis: int | None


@dataclass(frozen=True)
class Placement:
    """What is quantized under a Q/DQ scheme, and between which nodes."""

    scheme: Scheme
    activations: tuple[QuantizedTensor, ...]
    weights: tuple[QuantizedWeight, ...]
    excluded: frozenset[str] = frozenset()  # nodes that were asked to stay out


def uint8_params(low: float, high: float) -> QuantParams:
    """A uint8 scale and zero point for [low, high], which holds zero."""
    scale = max((high - low) / 255, FP32_SMALLEST)
    return QuantParams(scale, int(np.clip(round(-low / scale), 0, 255)), "uint8")


def fits_fp16(rows: Floats, tolerated: Floats | float = NOTICED) -> bool:
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


def round_scales(scale: npt.NDArray[np.floating[Any]], half: bool) -> Array:
    """Scales as the graph will hold them: float32; with `half`, normal FP16 numbers."""
    if half:
        return np.asarray(np.clip(scale, FP16_SMALLEST, FP16_LARGEST).astype(np.float16), np.float32)
    return np.asarray(np.maximum(scale, FP32_SMALLEST), np.float32)


def round_params(params: QuantParams, half: bool) -> QuantParams:
    """With the scale as the graph will hold it: rounded to FP16 with `half` if it can be, else to float32."""
    fits = half and FP16_SMALLEST <= params.scale <= FP16_LARGEST
    return replace(params, scale=float(round_scales(np.array([params.scale]), fits)[0]))


def round_to_nearest(weight: Array, scale: Array, axis: int | None) -> QuantizedWeights:
    """`weight` rounded to the nearest codes of `scale`, symmetric: -127 to 127."""
    codes = weight / _along(scale, axis, weight.ndim)
    np.clip(np.rint(codes, out=codes), -127, 127, out=codes)
    return QuantizedWeights(codes.astype(np.int8), scale, axis)


def quantize_weights(
    weight: Array,
    axis: int | None,
    half: bool,
    *,
    search: bool,
    tolerated: Floats | float = NOTICED,
    searched: Array | None = None,
) -> QuantizedWeights:
    """Round `weight` to int8 with one symmetric scale per channel of `axis`; with `half` FP16 numbers if they can be.

    `tolerated` is that of `fits_fp16`. With `search` each scale is the one of least squared error among shrunken
    ranges (`searched` [channels] by `least_squares_scales`, where that is known), else it is max|w| / 127.
    """
    half = half and fits_fp16(_rows(weight, axis), tolerated)
    if not search:
        searched = _largest_scales(_rows(weight, axis))
    elif searched is None:
        searched = least_squares_scales(weight, axis)
    return round_to_nearest(weight, round_scales(searched, half), axis)


def _largest_scales(rows: Array) -> Array:
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1)) if rows.size else np.zeros(len(rows), np.float32)
    return np.where(largest > 0, largest / 127, HARMLESS).astype(np.float32)


def least_squares_scales(weight: Array, axis: int | None) -> Array:
    """[channels of `axis`]: the one of 31 shares of max|w| / 127 with the least squared error, before it is rounded; in
    pieces that stay in the cache."""
    rows = _rows(weight, axis)
    scale = _largest_scales(rows)
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
