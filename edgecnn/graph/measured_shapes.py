"""Shapes that inference does not find, measured: an Expand by computed sizes stops it, and with it all that follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.contract import BATCH
from edgecnn.errors import BackendError
from edgecnn.graph.importing.names import free_name
from edgecnn.graph.onnx_graph import OnnxGraph, Shape, copy_model

BATCHES, SCALES = (2, 3), (0, 3)  # of the images of two runs


def write_measured_shapes(model: onnx.ModelProto) -> None:
    """State, in place, the shapes of float tensors that the graph does not, as two runs have them, of another batch and
    of other images: axes that follow the batch stay open, and a tensor whose sizes depend on the image is left as it
    is. So is a graph that does not run there."""
    graph = OnnxGraph(model)
    made = [name for node in graph.nodes for name in node.output if name and name not in graph.outputs]
    missing = [n for n in made if graph.types.get(n) == TensorProto.FLOAT and _is_open(graph.shapes.get(n))]
    found = _measure(graph, missing) if missing else {}
    stated = {value.name: value for value in model.graph.value_info}
    for name, sizes in found.items():
        dims = [BATCH if size is None else size for size in sizes]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        if name in stated:
            stated[name].CopyFrom(value)
        else:
            model.graph.value_info.append(value)


def _is_open(shape: Shape | None) -> bool:
    return shape is None or None in shape[1:]


def _measure(graph: OnnxGraph, names: Sequence[str]) -> dict[str, Shape]:
    batch, *sizes = graph.shapes.get(graph.input, (None, None))
    if None in sizes:
        return {}
    part = copy_model(graph.model)
    marks = {name: free_name(part.graph, f"{name}_sizes") for name in names}
    part.graph.node.extend(helper.make_node("Shape", [name], [mark]) for name, mark in marks.items())
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=mark) for mark in marks.values())
    seen = []
    try:
        with onnxruntime_errors("the graph"):
            session = open_session(part)
            for count, scale in zip((batch, batch) if batch else BATCHES, SCALES, strict=True):
                images = scale * np.random.default_rng(0).standard_normal((count, *(n or 1 for n in sizes)), np.float32)
                seen.append([value.tolist() for value in session.run([*marks.values()], {graph.input: images})])
    except BackendError:
        return {}
    return {
        name: tuple(a if a == b else None for a, b in zip(first, second, strict=True))
        for name, first, second in zip(names, *seen, strict=True)
        if len(first) == len(second) and all(_is_explained(a, b, batch) for a, b in zip(first, second, strict=True))
    }


def _is_explained(first: int, second: int, frozen: int | None) -> bool:
    """Whether a size is the same in both runs, or as many times the batch."""
    return first == second or (not frozen and first * BATCHES[1] == second * BATCHES[0])
