"""What a weighted node sees: its input at sampled output positions, as rows of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.graph.prepare import GraphIndex, attribute

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul as a matrix product: weights [groups, outputs, columns]."""

    node: onnx.NodeProto
    weight: str
    bias: str
    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    transposed: bool  # the initialiser is [columns, outputs]

    def matrix(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The initialiser's array as [groups, outputs, columns]."""
        turned = array.T if self.transposed else array
        return turned.astype(np.float64).reshape(self.groups, turned.shape[0] // self.groups, -1)

    def array(self, matrix: npt.NDArray[np.floating[Any]], shape: tuple[int, ...]) -> npt.NDArray[np.floating[Any]]:
        """Back from [groups, outputs, columns] to the shape of the initialiser."""
        return matrix.reshape(shape[::-1]).T if self.transposed else matrix.reshape(shape)

    def sampled(self, value: Array, per_image: int, seed: int) -> Array:
        """[groups, images x per_image, columns] of an input [N, C, H, W] (or [N, C]); the same for the same seed."""
        if value.ndim == 2:
            return value.reshape(1, *value.shape)
        (top, left, bottom, right), (kh, kw), (dh, dw) = self.pads, self.kernel, self.dilations
        padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right))) if any(self.pads) else value
        reach = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
        windows = windows[:, :, :: self.strides[0], :: self.strides[1], ::dh, ::dw]
        images, _, high, wide = windows.shape[:4]
        count = min(per_image, high * wide)
        rng = np.random.default_rng(seed)
        where = np.stack([rng.permutation(high * wide)[:count] for _ in range(images)]).reshape(-1)
        picked = windows[np.repeat(np.arange(images), count), :, where // wide, where % wide]
        rows = picked.reshape(len(where), self.groups, -1).transpose(1, 0, 2)
        return np.ascontiguousarray(rows, np.float32)


def layer_of(index: GraphIndex, node: onnx.NodeProto) -> Layer:
    """The matrix product that `node` is."""
    bias = node.input[2] if len(node.input) > 2 else ""
    if node.op_type != "Conv":
        turned = node.op_type == "MatMul" or not attribute(node, "transB", 0)
        return Layer(node, node.input[1], bias, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), bool(turned))
    kernel = tuple(int(k) for k in index.initializer[node.input[1]].dims[2:])
    strides = _integers(node, "strides", (1, 1))
    dilations = _integers(node, "dilations", (1, 1))
    return Layer(
        node=node,
        weight=node.input[1],
        bias=bias,
        groups=int(attribute(node, "group", 1)),  # type: ignore[call-overload]
        kernel=(kernel[0], kernel[1]),
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        pads=_pads(index, node, kernel, strides, dilations),
        transposed=False,
    )


def _integers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(next((a.ints for a in node.attribute if a.name == name), default))


def _pads(
    index: GraphIndex,
    node: onnx.NodeProto,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[int, int, int, int]:
    mode = attribute(node, "auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b""):
        given = _integers(node, "pads", (0, 0, 0, 0))
        return given[0], given[1], given[2], given[3]
    if mode == b"VALID":
        return 0, 0, 0, 0
    sizes = index.shape[node.input[0]][2:]
    ends: list[tuple[int, int]] = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        assert size is not None
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        ends.append((less, more) if mode == b"SAME_UPPER" else (more, less))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]
