"""The layout of a foreign graph's input: NHWC becomes NCHW, height and width become fixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.importing.names import free_name, replace_tensor
from edgecnn.graph.onnx_graph import attribute
from edgecnn.session import Array


@dataclass(frozen=True)
class Layout:
    """(channels, height, width) of the input, and whether the original wants them channels last."""

    shape: tuple[int, int, int]
    channels_last: bool

    def arrange(self, images: Array) -> Array:
        """NCHW images as the original takes them."""
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.channels_last else images


def read_layout(model: onnx.ModelProto, preprocessing: Preprocessing | None) -> tuple[Layout, int | None]:
    """The layout of the only input, and the batch that is frozen in its shape (None: dynamic).

    Raises `GraphError` for an input that is no image, `DataError` for a preprocessing that makes other images.
    """
    given = model.graph.input[0]
    dims = [d.dim_value or None for d in given.type.tensor_type.shape.dim]
    if dims[1] not in (1, 3) and dims[3] not in (1, 3):
        raise GraphError(
            f"input {given.name!r} is {dims}: neither NCHW nor NHWC of 1 or 3 channels",
            "export it with its channels fixed, as [batch, channels, height, width]",
        )
    last = dims[1] not in (1, 3)
    channels, height, width = (dims[3], dims[1], dims[2]) if last else (dims[1], dims[2], dims[3])
    if preprocessing is not None:
        height, width = height or preprocessing.size[0], width or preprocessing.size[1]
    if channels is None or height is None or width is None:
        raise GraphError(f"input {given.name!r} has no fixed height and width", "say what it takes with --preprocess")
    shape = (channels, height, width)
    if preprocessing is not None and preprocessing.input_shape != shape:
        made, wanted = ("x".join(map(str, s)) for s in (preprocessing.input_shape, shape))
        raise DataError(f"the preprocessing makes {made}, the graph takes {wanted}", "give one of that crop")
    return Layout(shape, last), dims[0]


def move_channels_first(graph: onnx.GraphProto, layout: Layout) -> list[str]:
    """Make the input NCHW of fixed channels, height and width."""
    given = graph.input[0]
    dims = given.type.tensor_type.shape.dim
    for dim, size in zip(list(dims)[1:], layout.shape, strict=True):
        dim.dim_value = size
    if not layout.channels_last:
        return []
    readers = [n for n in graph.node if given.name in n.input]
    if all(n.op_type == "Transpose" and list(attribute(n, "perm", (0,))) == [0, 3, 1, 2] for n in readers):
        for node in readers:
            graph.node.remove(node)
            replace_tensor(graph, node.output[0], given.name)
        return ["input NHWC -> NCHW: the Transpose behind it removed"]
    inner = free_name(graph, "input_channels_last")
    replace_tensor(graph, given.name, inner)
    graph.node.insert(0, helper.make_node("Transpose", [given.name], [inner], name=inner, perm=[0, 2, 3, 1]))
    return ["input NHWC -> NCHW: a Transpose added behind it, which costs time; better export it as NCHW"]
