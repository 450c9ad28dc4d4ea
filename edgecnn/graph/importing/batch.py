"""The batch axis of a foreign graph: dynamic and named `batch`, where the graph can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecnn.contract import BATCH, MAX_DIFFERENCE, OUTPUT
from edgecnn.errors import GraphError
from edgecnn.graph.importing.names import free_name
from edgecnn.graph.importing.proof import find_difference, require_close_or_far
from edgecnn.graph.shape_arithmetic import fold_shape_arithmetic
from edgecnn.session import Array

BATCHES = (1, 2, 3)


@dataclass(frozen=True)
class BatchOutcome:
    """The batch that stays frozen (None: it is dynamic), the largest difference from the original as a share of its
    largest output, and what was changed."""

    frozen: int | None
    max_difference: float
    changes: tuple[str, ...]


def make_batch_dynamic(
    model: onnx.ModelProto, images: Array, expected: Array, frozen: int | None, allowed: float = MAX_DIFFERENCE
) -> BatchOutcome:
    """Make the batch dynamic if the graph can be, proven on `images` to differ by `allowed` of the largest logit at
    most, and write in the sizes that the graph computes of fixed shapes; raises `GraphError` for a graph that is not
    equal to the original even at its own batch."""
    axis = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    set_batch(model.graph, BATCH, expected)
    said = [f"batch {frozen} made dynamic"] if frozen else [f"batch axis {axis!r} named {BATCH!r}"] * (axis != BATCH)
    folded = fold_shape_arithmetic(model)
    difference, why = find_difference(model, images, expected, BATCHES, allowed)
    if frozen is None:
        require_close_or_far(difference, allowed)
    if why:
        reshapes = free_reshapes(model.graph, frozen or 1)
        if reshapes:
            folded += fold_shape_arithmetic(model)
            difference, why = find_difference(model, images, expected, BATCHES, allowed)
            said.append(f"the batch taken out of {len(reshapes)} Reshape constants ({', '.join(reshapes[:3])})")
    if not why:
        return BatchOutcome(None, difference, (*said, *_sizes_written(folded)))
    only = frozen or 1
    set_batch(model.graph, only, expected)
    folded += fold_shape_arithmetic(model)
    copies = np.resize(images, (only, *images.shape[1:]))
    rows = np.resize(expected, (only, *expected.shape[1:]))
    difference, refused = find_difference(model, copies, rows, (only,), allowed)
    if refused:
        require_close_or_far(difference, allowed)
        raise GraphError(f"the normalized graph is not equal to the original: {refused}", "export it again")
    return BatchOutcome(only, difference, (f"the batch stays frozen at {only}: {why}", *_sizes_written(folded)))


def _sizes_written(count: int) -> list[str]:
    return [f"{count} sizes that the graph computed of fixed shapes written in"] if count else []


def free_reshapes(graph: onnx.GraphProto, batch: int) -> list[str]:
    """Take `batch` out of the constants of the Reshapes of activations; returns the names of those nodes."""
    constants = {i.name: i for i in graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute}
    freed = []
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] in constants or node.input[1] not in constants:
            continue
        sizes = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64)
        if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == batch:
            sizes = sizes.copy()
            sizes[0] = 0 if -1 in sizes else -1  # 0 copies the batch of the input
            name = free_name(graph, f"{node.name}.shape")
            graph.initializer.append(numpy_helper.from_array(sizes, name))
            node.input[1] = name
            freed.append(node.name)
    return freed


def set_batch(graph: onnx.GraphProto, batch: int | str, expected: Array) -> None:
    """Declare the batch (a size, or the name of a dynamic axis) and the number of classes."""
    graph.input[0].type.tensor_type.shape.dim[0].CopyFrom(_dim(batch))
    classes = int(np.prod(expected.shape[1:]))
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, classes])
    graph.output[0].CopyFrom(output)


def _dim(size: int | str) -> onnx.TensorShapeProto.Dimension:
    kind = onnx.TensorShapeProto.Dimension
    return kind(dim_param=size) if isinstance(size, str) else kind(dim_value=size)
