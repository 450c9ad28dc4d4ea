"""Sizes that a graph computes while it runs, although all but the batch are fixed: written in as constants.

Exporters write `x.shape[1] // 2` as Shape, Gather, Div; inference of shapes stops at the division, and everything
behind is unknown to it. The sizes are read off the running graph at two batches: what is the same in both does not
depend on the batch. What depends on the image itself (NonZero and its like) is none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.errors import BackendError
from edgecnn.graph.importing.names import free_name
from edgecnn.graph.importing.outputs import remove_unneeded
from edgecnn.graph.onnx_graph import OnnxGraph, copy_model

Values = npt.NDArray[Any]
Use = tuple[onnx.NodeProto, int]
Seen = tuple[str, bool]  # a tensor, and whether its sizes are meant
READS_SHAPE = frozenset({"Shape", "Size"})
_BATCHES = (2, 3)
_LARGEST = 4096  # values of a constant that is written in


def fold_shape_arithmetic(model: onnx.ModelProto) -> int:
    """Write in what `model` computes of its shapes alone, in place, where it is one value for all batches; the sizes
    of a Reshape also where one of them is the batch, which becomes -1. Returns how many inputs of nodes became
    constants.

    The input has to state its channels, height and width. A graph that does not run at both batches is left as it is.
    """
    graph = OnnxGraph(model)
    derived = _find_derived(graph)
    uses = [(node, k) for node in graph.nodes for k, name in enumerate(node.input) if name and name in derived]
    seen = _observe(graph, uses) if uses else None
    if seen is None:
        return 0
    made: dict[Seen, str] = {}
    folded = 0
    for node, k in uses:
        key, value = (node.input[k], False), _settle(*seen[node.input[k], False])
        if value is None and _are_sizes(node, k):
            key = node.output[0], True
            value = _settle_sizes(*seen[key])
        if value is None:
            continue
        if key not in made:
            made[key] = free_name(model.graph, f"{node.input[k]}_fixed")
            model.graph.initializer.append(numpy_helper.from_array(value, made[key]))
        node.input[k] = made[key]
        folded += 1
    if folded:
        remove_unneeded(model.graph)
    return folded


def _find_derived(graph: OnnxGraph) -> set[str]:
    """The tensors that are computed of shapes and constants alone, and of at least one shape."""
    derived: set[str] = set()
    constant = {"", *graph.initializers}
    for node in graph.nodes:
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            continue
        if node.op_type in READS_SHAPE and node.input[0] not in constant:
            derived.update(node.output)
        elif constant.issuperset(node.input):
            constant.update(node.output)
        elif (derived | constant).issuperset(node.input):
            derived.update(node.output)
    return derived


def _observe(graph: OnnxGraph, uses: Sequence[Use]) -> dict[Seen, tuple[Values, Values]] | None:
    """At two batches, or at the frozen one twice: the values of the tensors that are used, and the sizes of what a
    Reshape makes by them; None where the graph does not run there."""
    batch, *sizes = graph.shapes.get(graph.input, (None, None))
    if None in sizes:
        return None
    part = copy_model(graph.model)
    wanted: dict[Seen, str] = {(node.input[k], False): node.input[k] for node, k in uses}
    for name in (node.output[0] for node, k in uses if _are_sizes(node, k)):
        wanted[name, True] = free_name(part.graph, f"{name}_sizes")
        part.graph.node.append(helper.make_node("Shape", [name], [wanted[name, True]]))
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted.values())
    remove_unneeded(part.graph)
    found: list[Mapping[Seen, Values]] = []
    try:
        with onnxruntime_errors("the graph"):
            session = open_session(part)
            for count in (batch,) if batch else _BATCHES:
                image = np.zeros((count, *(n or 1 for n in sizes)), np.float32)
                values = session.run([*wanted.values()], {graph.input: image})
                found.append(dict(zip(wanted, values, strict=True)))
    except BackendError:
        return None
    return {key: (found[0][key], found[-1][key]) for key in wanted}


def _are_sizes(node: onnx.NodeProto, k: int) -> bool:
    return node.op_type == "Reshape" and k == 1


def _settle(first: Values, second: Values) -> Values | None:
    """What both are, or None where that is too large or not one value."""
    same = first.shape == second.shape and first.size <= _LARGEST and bool((first == second).all())
    return first if same else None


def _settle_sizes(first: Values, second: Values) -> Values | None:
    """The sizes with -1 for the one that differs; None where more do."""
    same = first == second
    return np.where(same, first, np.int64(-1)) if int((~same).sum()) == 1 and (first > 0).all() else None
