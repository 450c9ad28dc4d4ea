"""What a weighted node sees: its input at sampled output positions, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.graph.onnx_graph import OnnxGraph, attribute
from edgecnn.quantization import QuantParams

Array = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul as a matrix product: weights [groups, outputs, columns].

    `bias` is the constant of one value per output that it adds, "" without one. What is for convolutions alone has one
    entry per spatial axis; a Gemm or MatMul has none.
    """

    node: onnx.NodeProto
    weight: str
    bias: str
    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]  # before each axis, then behind each
    auto_pad: str
    transposed: bool  # the initializer is [columns, outputs]

    def columns(self, graph: OnnxGraph) -> int:
        """How many weights make one output."""
        dims = list(graph.initializers[self.weight].dims)
        return int(dims[-2] if self.transposed else np.prod(dims[1:]))

    def matrix(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The initializer's array as [groups, outputs, columns]."""
        turned = array.T if self.transposed else array
        return turned.astype(np.float64).reshape(self.groups, turned.shape[0] // self.groups, -1)

    def array(self, matrix: npt.NDArray[np.floating[Any]], shape: tuple[int, ...]) -> npt.NDArray[np.floating[Any]]:
        """Back from [groups, outputs, columns] to the shape of the initializer."""
        return matrix.reshape(shape[::-1]).T if self.transposed else matrix.reshape(shape)

    def padding(self, sizes: Sequence[int | None]) -> list[tuple[int, int]] | None:
        """(before, behind) each spatial axis of an input of `sizes`; None when an unknown size decides."""
        if self.auto_pad in ("NOTSET", ""):
            half = len(self.kernel)
            return list(zip(self.pads[:half], self.pads[half:], strict=True))
        ends = []
        for size, k, s, d in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            reach = d * (k - 1)
            if self.auto_pad == "VALID" or reach == 0:
                total = 0
            elif s == 1:
                total = reach
            elif size is None:
                return None
            else:
                total = max((-(-size // s) - 1) * s + reach + 1 - size, 0)
            less, more = total // 2, total - total // 2
            ends.append((less, more) if self.auto_pad == "SAME_UPPER" else (more, less))
        return ends

    def may_pad(self, shape: Sequence[int | None]) -> bool:
        """Whether zeros are, or for all that is known of the input's `shape` could be, put around the input."""
        padding = self.padding(shape[2:] or [None] * len(self.kernel))
        return padding is None or any(end for ends in padding for end in ends)

    def sampled(self, value: npt.NDArray[Any], per_image: int, seed: int, params: QuantParams | None = None) -> Array:
        """[groups, images x per_image, columns] of an input [N, C, ...], or [N, ..., C] of a Gemm or MatMul; the same
        for the same seed. With `params` the input is given as codes."""
        if self.node.op_type == "Conv":
            images, where, inside = self._windows(value.shape, per_image, seed)
            picked = value.reshape(*value.shape[:2], -1)[images[:, None], :, where]  # [samples, kernel, channels]
            rows = _as_floats(picked, params)
            if inside is not None:
                rows *= inside[:, :, None]
            split = rows.reshape(*rows.shape[:2], self.groups, -1).transpose(2, 0, 3, 1)
            return np.ascontiguousarray(split).reshape(self.groups, len(rows), -1)
        turned = value.T if attribute(self.node, "transA", 0) else value
        if turned.ndim > 2:
            places = turned.reshape(len(turned), -1, turned.shape[-1])
            images, where = _sample_positions(places.shape[1], per_image, len(places), seed)
            turned = places[images, where]
        return _as_floats(turned, params)[None]

    def _windows(
        self, shape: tuple[int, ...], per_image: int, seed: int
    ) -> tuple[Positions, Positions, npt.NDArray[np.bool_] | None]:
        """Which images [samples] of an input of `shape`, where in it the kernel stands [samples, kernel], and whether
        that is inside; None where all of it is."""
        padding = self.padding(shape[2:])
        assert padding is not None, "sizes are known here"
        geometry = (self.kernel, self.strides, self.dilations, tuple(padding))
        return _window_positions(shape[0], shape[2:], *geometry, per_image, seed)


def _as_floats(picked: npt.NDArray[Any], params: QuantParams | None) -> Array:
    return np.asarray(picked, np.float32) if params is None else params.dequantize(picked)


@lru_cache(maxsize=1024)
def _sample_positions(total: int, per_image: int, images: int, seed: int) -> tuple[Positions, Positions]:
    """(image, position) of each sample."""
    count, rng = min(per_image, total), np.random.default_rng(seed)
    where = np.stack([rng.permutation(total)[:count] for _ in range(images)]).reshape(-1)
    return np.repeat(np.arange(images), count), where


@lru_cache(maxsize=64)
def _window_positions(
    images: int,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    per_image: int,
    seed: int,
) -> tuple[Positions, Positions, npt.NDArray[np.bool_] | None]:
    reaches = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    made = [
        (size + sum(ends) - reach) // step + 1
        for size, ends, reach, step in zip(sizes, padding, reaches, strides, strict=True)
    ]
    number, chosen = _sample_positions(int(np.prod(made)), per_image, images, seed)
    where, inside = np.zeros((len(number), 1), np.int64), np.ones((len(number), 1), np.bool_)
    axes = zip(np.unravel_index(chosen, made), sizes, kernel, strides, dilations, padding, strict=True)
    for place, size, k, step, dilation, ends in axes:
        at = place[:, None] * step - ends[0] + np.arange(k) * dilation
        within = (at >= 0) & (at < size)
        where = (where[:, :, None] * size + np.clip(at, 0, size - 1)[:, None]).reshape(len(number), -1)
        inside = (inside[:, :, None] & within[:, None]).reshape(len(number), -1)
    return number, where, None if inside.all() else inside


def layer_from_node(graph: OnnxGraph, node: onnx.NodeProto) -> Layer:
    """The matrix product that `node` is."""
    dims = graph.initializers[node.input[1]].dims
    turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    bias = node.input[2] if len(node.input) > 2 and node.op_type != "MatMul" else ""
    if bias not in graph.initializers or list(graph.initializers[bias].dims) != [dims[-1] if turned else dims[0]]:
        bias = ""
    kernel = tuple(int(k) for k in dims[2:]) if node.op_type == "Conv" else ()
    return Layer(
        node=node,
        weight=node.input[1],
        bias=bias,
        groups=attribute(node, "group", 1),
        kernel=kernel,
        strides=attribute(node, "strides", (1,) * len(kernel)),
        dilations=attribute(node, "dilations", (1,) * len(kernel)),
        pads=attribute(node, "pads", (0,) * 2 * len(kernel)),
        auto_pad=attribute(node, "auto_pad", b"NOTSET").decode(),
        transposed=turned,
    )
