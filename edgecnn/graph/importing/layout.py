"""The layout of a foreign graph's input: NHWC becomes NCHW, height and width become fixed."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.importing.names import free_name, replace_tensor
from edgecnn.graph.onnx_graph import attribute
from edgecnn.session import Array

CHANNELS = (1, 3, 4)


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
    if dims[1] not in CHANNELS and dims[3] not in CHANNELS:
        raise GraphError(
            f"input {given.name!r} is {dims}: neither NCHW nor NHWC of 1, 3 or 4 channels",
            "export it with its channels fixed, as [batch, channels, height, width]",
        )
    last = dims[1] not in CHANNELS
    channels, height, width = (dims[3], dims[1], dims[2]) if last else (dims[1], dims[2], dims[3])
    if preprocessing is not None:
        height, width = height or preprocessing.size[0], width or preprocessing.size[1]
    if channels is None or height is None or width is None:
        raise GraphError(f"input {given.name!r} has no fixed height and width", "say what it takes with --preprocess")
    shape = (channels, height, width)
    if preprocessing is not None and preprocessing.input_shape != shape:
        made, wanted = ("x".join(map(str, s)) for s in (preprocessing.input_shape, shape))
        resize = round(preprocessing.resize * max(height, width) / max(preprocessing.size))
        fitting = {**preprocessing.to_json(), "resize": resize, "crop": [height, width]}
        raise DataError(
            f"the preprocessing makes {made}, the graph takes {wanted}",
            f"give one of that crop: --preprocess P.json, in it for example {json.dumps(fitting)}"
            if preprocessing.channels == channels
            else f"give one of {channels} channels and that crop with --preprocess P.json",
        )
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
    if _move_transpose_up(graph, given.name):
        return ["input NHWC -> NCHW: the Transpose behind its arithmetic removed, the constants turned"]
    inner = free_name(graph, "input_channels_last")
    replace_tensor(graph, given.name, inner)
    graph.node.insert(0, helper.make_node("Transpose", [given.name], [inner], name=inner, perm=[0, 2, 3, 1]))
    return ["input NHWC -> NCHW: a Transpose added behind it, which costs time; better export it as NCHW"]


def _move_transpose_up(graph: onnx.GraphProto, name: str) -> bool:
    """Remove the Transpose to channels first behind arithmetic with constants alone, whose constants are turned in its
    place; False where there is none such."""
    constants = {i.name: i for i in graph.initializer}
    turned: list[tuple[onnx.NodeProto, int]] = []
    while True:
        readers = [n for n in graph.node if name in n.input]
        if len(readers) != 1:
            return False
        node = readers[0]
        if node.op_type == "Transpose" and attribute(node, "perm", (0, 0, 0, 0)) == (0, 3, 1, 2):
            break
        other = [k for k, given in enumerate(node.input) if given != name]
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(other) != 1 or node.input[other[0]] not in constants:
            return False
        turned.append((node, other[0]))
        name = node.output[0]
    if node.output[0] in {o.name for o in graph.output}:
        return False
    for reader, k in turned:
        value = numpy_helper.to_array(constants[reader.input[k]])
        if value.size > 1:
            made = free_name(graph, f"{reader.input[k]}_nchw")
            wide = value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(0, 3, 1, 2)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(wide), made))
            reader.input[k] = made
    graph.node.remove(node)
    replace_tensor(graph, node.output[0], name)
    return True
