"""A foreign graph that takes uint8 pixels and prepares them itself: its Cast, Transpose and arithmetic are read as the
normalization that they are, and come back as a serving contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.importing.names import replace_tensor
from edgecnn.graph.onnx_graph import OnnxGraph, attribute, node_label

TO_CHANNELS_FIRST = (0, 3, 1, 2)
_SAME = 1e-3  # of the standard deviation, between a stated and a found normalization
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pixels:
    """What the nodes behind a uint8 input do: normalize pixels / 255 by `mean` and `std` of each channel, or of all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool
    changes: tuple[str, ...]

    def complete(self, preprocessing: Preprocessing | None, shape: tuple[int, int, int]) -> Preprocessing:
        """`preprocessing` with the graph's own normalization; raises `DataError` where it says another one, and where
        nothing says how pictures are resized."""
        mean, std = ((v * shape[0] if len(v) == 1 else v) for v in (self.mean, self.std))
        own = f'"mean": {_written(mean)}, "std": {_written(std)}'
        if preprocessing is None:
            sizes = f'"resize": {min(shape[1:])}, "crop": {list(shape[1:])}, "channels": {shape[0]}'
            raise DataError(
                "the graph takes pixels and normalizes them itself; how pictures are resized is not known",
                f"say it with --preprocess P.json, in it for example {{{sizes}, {own}}}",
            )
        if len(preprocessing.mean) != len(mean):
            raise DataError(f"{len(preprocessing.mean)} channels for a graph of {shape[0]}", "correct --preprocess")
        as_pixels = np.allclose(preprocessing.mean, 0) and np.allclose(np.multiply(preprocessing.std, 255), 1)
        apart = np.abs(np.subtract((preprocessing.mean, preprocessing.std), (mean, std))) > _SAME * np.array(std)
        if not as_pixels and apart.any():
            raise DataError(
                f"the graph normalizes pixels itself, otherwise than the preprocessing says: mean {_written(mean)} and "
                f"std {_written(std)} in place of {_written(preprocessing.mean)} and {_written(preprocessing.std)}",
                f"write {own}",
            )
        return dataclasses.replace(preprocessing, mean=mean, std=std)


def absorb_pixels(model: onnx.ModelProto) -> Pixels | None:
    """Take the Cast, the Transpose and the normalization behind a uint8 input off the graph, in place: it takes
    normalized float32 images then. None for a graph of another input.

    y = a x + b of pixels x is (x / 255 - mean) / std with std = 1 / (255 a), mean = -b std. Arithmetic that is no
    normalization (a scale that is not positive) stays in the graph. Raises `GraphError` where no Cast to float32 reads
    the input.
    """
    graph, index = model.graph, OnnxGraph(model)
    if len(index.inputs) != 1:
        return None
    given = graph.input[0]
    tensor = given.type.tensor_type
    if tensor.elem_type != TensorProto.UINT8 or len(tensor.shape.dim) != 4:
        return None
    last = tensor.shape.dim[1].dim_value not in (1, 3)
    taken = _walk(index, given.name, channels_last=last)
    for node in taken.nodes:
        graph.node.remove(node)
    replace_tensor(graph, taken.name, given.name)
    tensor.elem_type = TensorProto.FLOAT
    if taken.transposed:
        batch, height, width, channels = tensor.shape.dim
        dims = [d.dim_value or d.dim_param or None for d in (batch, channels, height, width)]
        given.CopyFrom(helper.make_tensor_value_info(given.name, TensorProto.FLOAT, dims))
    del graph.value_info[:]
    std = 1 / (255 * taken.scale)
    mean = -taken.shift * std + 0.0
    kinds = ", ".join(n.op_type for n in taken.nodes)
    said = f"uint8 pixels, {'NHWC' if last else 'NCHW'}: {kinds} behind the input taken as the normalization of images"
    return Pixels(tuple(mean.tolist()), tuple(std.tolist()), last, (said,))


@dataclass(frozen=True)
class _Chain:
    """The nodes from the input to the tensor `name` = scale x pixels + shift, by channel."""

    name: str
    nodes: tuple[onnx.NodeProto, ...] = ()
    scale: Values = dataclasses.field(default_factory=lambda: np.ones(1))
    shift: Values = dataclasses.field(default_factory=lambda: np.zeros(1))
    is_float: bool = False
    transposed: bool = False


def _walk(index: OnnxGraph, name: str, channels_last: bool) -> _Chain:
    """The longest chain that is a normalization."""
    chain, best = _Chain(name), None
    while (longer := _extend(index, chain, channels_last)) is not None:
        chain = longer
        if chain.is_float and (chain.scale > 0).all() and np.isfinite([*chain.scale, *chain.shift]).all():
            best = chain
    if best is None:
        readers = [f"{n.op_type} {node_label(n)}" for n, _ in index.readers.get(chain.name, [])]
        raise GraphError(
            f"input {name!r} is uint8, and no Cast to float32 alone reads it but {', '.join(readers) or 'nothing'}",
            "export the network with a float32 input [batch, channels, height, width]",
        )
    return best


def _extend(index: OnnxGraph, chain: _Chain, channels_last: bool) -> _Chain | None:
    readers = index.readers.get(chain.name, [])
    if len(readers) != 1 or readers[0][0].output[0] in index.outputs:
        return None
    node, k = readers[0]
    longer = dataclasses.replace(chain, name=node.output[0], nodes=(*chain.nodes, node))
    if node.op_type == "Identity":
        return longer
    if node.op_type == "Cast" and attribute(node, "to", 0) == TensorProto.FLOAT:
        return dataclasses.replace(longer, is_float=True)
    if node.op_type == "Transpose" and channels_last and not chain.transposed:
        wanted = attribute(node, "perm", (0, 0, 0, 0)) == TO_CHANNELS_FIRST
        return dataclasses.replace(longer, transposed=True) if wanted else None
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or not chain.is_float:
        return None
    values = _by_channel(index, node.input[1 - k], 3 if channels_last and not chain.transposed else 1)
    if values is None or (node.op_type == "Div" and (k == 1 or not values.all())):
        return None
    scale, shift = chain.scale, chain.shift
    if node.op_type in ("Mul", "Div"):
        factor = values if node.op_type == "Mul" else 1 / values
        return dataclasses.replace(longer, scale=scale * factor, shift=shift * factor)
    if node.op_type == "Add":
        return dataclasses.replace(longer, scale=scale + 0 * values, shift=shift + values)
    sign = 1 if k == 0 else -1
    return dataclasses.replace(longer, scale=sign * scale + 0 * values, shift=sign * (shift - values))


def _by_channel(index: OnnxGraph, name: str, axis: int) -> Values | None:
    """A constant that has one value, or one for each channel of `axis` of a tensor of four axes."""
    tensor = index.initializers.get(name)
    if tensor is None and (node := index.producer.get(name)) is not None and node.op_type == "Constant":
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
    if tensor is None:
        return None
    values = numpy_helper.to_array(tensor).astype(np.float64)
    if values.size == 1:
        return values.reshape(1)
    shape = (1,) * (4 - values.ndim) + values.shape
    return values.reshape(-1) if len(shape) == 4 and shape[axis] == values.size else None


def _written(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]
