"""What a weighted node sees: its input at sampled output positions, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.graph.onnx_graph import OnnxGraph, attribute

Array = npt.NDArray[np.float32]


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

    def sampled(self, value: Array, per_image: int, seed: int) -> Array:
        """[groups, images x per_image, columns] of an input [N, C, ...], or [N, ..., C] of a Gemm or MatMul; the same
        for the same seed."""
        if self.node.op_type == "Conv":
            windows, places = self._windows(value), value.ndim - 2
        else:
            turned = value.T if attribute(self.node, "transA", 0) else value
            if turned.ndim == 2:
                return turned.reshape(1, *turned.shape)
            windows, places = turned.reshape(len(turned), 1, -1, turned.shape[-1]), 1
        images, sizes = windows.shape[0], windows.shape[2 : 2 + places]
        total = int(np.prod(sizes))
        count = min(per_image, total)
        rng = np.random.default_rng(seed)
        where = np.stack([rng.permutation(total)[:count] for _ in range(images)]).reshape(-1)
        chosen: Any = (np.repeat(np.arange(images), count), slice(None), *np.unravel_index(where, sizes))
        picked = windows[chosen]
        rows = picked.reshape(len(where), self.groups, -1).transpose(1, 0, 2)
        return np.ascontiguousarray(rows, np.float32)

    def _windows(self, value: Array) -> Array:
        """[N, C, *positions, *kernel]: a view of what the convolution multiplies its weights with."""
        padding = self.padding(value.shape[2:])
        assert padding is not None, "sizes are known here"
        padded = np.pad(value, [(0, 0), (0, 0), *padding]) if any(map(any, padding)) else value
        reach = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, value.ndim)))
        steps = (1, 1, *self.strides, *self.dilations)
        return windows[tuple(slice(None, None, step) for step in steps)]


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
