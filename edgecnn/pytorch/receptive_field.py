"""Receptive fields: which part of the image one value of a layer can see.

With kernel k, dilation d and stride s, r grows by (d (k - 1)) j and the jump j between neighbors by the factor s; where
branches meet, the largest counts (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural
networks", 2019). Padding counts as image, so that fields of late layers are larger than it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn


class Field(NamedTuple):
    """Height or width that one value sees, and the distance to its neighbor's, in pixels of the image."""

    size: int
    jump: int


Fields = tuple[Field, Field]  # vertical, horizontal
PIXEL: Fields = (Field(1, 1), Field(1, 1))


def field_of(layer: nn.Module | str, read: Sequence[tuple[Tensor, Fields]], output: Tensor) -> Fields:
    """Both fields of what `layer`, a module or the name of a function, makes of the tensors `read`."""
    given, own = max(read, key=lambda one: (one[0].ndim, one[0].shape[2:].numel()))  # a gate has one position
    sizes = widest(field for _, field in read)
    fields = Field(sizes[0].size, own[0].jump), Field(sizes[1].size, own[1].jump)
    if given.ndim != 4:
        return fields
    if output.ndim != 4:  # its values are of all positions, or stand side by side in one row
        return over(fields, given.shape[2:])
    if isinstance(layer, nn.Module) and hasattr(layer, "kernel_size"):
        dilations = _pair(getattr(layer, "dilation", 1))
        kernel = [d * (k - 1) + 1 for k, d in zip(_pair(layer.kernel_size), dilations, strict=True)]
        return _through(fields, kernel, _pair(layer.stride))
    sides = list(zip(given.shape[2:], output.shape[2:], strict=True))
    strides = [max(1, round(before / after)) for before, after in sides]
    if strides == [1, 1] or (not type(layer).__name__.endswith("Pool") and "Adaptive" not in type(layer).__name__):
        return _through(fields, (1, 1), strides)  # one by one, or every second value
    kernel = [before - (after - 1) * stride for (before, after), stride in zip(sides, strides, strict=True)]
    return _through(fields, kernel, strides)


def over(fields: Fields, positions: Sequence[int]) -> Fields:
    """Of a value made of a whole map of [height, width] positions."""
    return _through(fields, positions, (1, 1))


def widest(fields: Iterable[Fields]) -> Fields:
    """The largest of several, by size."""
    vertical, horizontal = zip(*fields, strict=True)
    return max(vertical), max(horizontal)


def _through(fields: Fields, kernel: Sequence[int], strides: Sequence[int]) -> Fields:
    made = [Field(f.size + (k - 1) * f.jump, f.jump * s) for f, k, s in zip(fields, kernel, strides, strict=True)]
    return made[0], made[1]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
