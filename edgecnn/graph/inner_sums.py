"""How large the sums become that an operator adds up inside: its result may fit FP16 where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from edgecnn.graph.onnx_graph import Shape, attribute

_MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_SUMS = frozenset({"ReduceLogSum", "ReduceSum"})
_OF_SQUARES = frozenset(
    {
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LpNormalization",
        "ReduceL2",
    }
)
_OF_INPUTS = frozenset({"Mean", "Sum"})


def largest_sum(
    node: onnx.NodeProto,
    shapes: Mapping[str, Shape],
    constants: Mapping[str, onnx.TensorProto],
    largest: Mapping[str, float],
    low: Mapping[str, float],
    margin: float,
) -> float:
    """An upper bound of what `node` adds up inside, in any order; 0 for an operator that sums nothing but its result.

    `largest` absolute and `low`est values by tensor, as calibration saw them. n values up to |x| come to n |x| at most,
    their squares to n |x|^2. Where the result says more, that times `margin` counts, if it is less: no partial sum
    exceeds the sum of all by more than n times the lowest value. An axis of unknown length is taken for one value.
    """
    if node.op_type in _OF_INPUTS:
        return sum(largest.get(name, 0.0) for name in node.input)
    if node.op_type not in _MEANS | _SUMS | _OF_SQUARES:
        return 0.0
    count = _summed(node, shapes.get(node.input[0], ()), constants)
    value, result = largest.get(node.input[0], 0.0), largest.get(node.output[0], math.inf)
    if node.op_type == "ReduceL2":
        return min(count * value**2, margin * result**2)
    if node.op_type in _OF_SQUARES and (node.op_type != "LpNormalization" or attribute(node, "p", 2) == 2):
        return count * value**2
    below = count * max(-low.get(node.input[0], -math.inf), 0.0)
    if node.op_type in _MEANS:
        return min(count * value, margin * (count * result + below))
    return min(count * value, margin * (result + below)) if node.op_type == "ReduceSum" else count * value


def _summed(node: onnx.NodeProto, shape: Shape, constants: Mapping[str, onnx.TensorProto]) -> int:
    """How many values of its first input, which has `shape`, `node` adds up for one of its result."""
    rank = len(shape)
    if node.op_type == "LRN":
        return attribute(node, "size", 1)
    if node.op_type == "AveragePool":
        return math.prod(_integers(node, "kernel_shape") or [])
    if node.op_type in ("GlobalAveragePool", "InstanceNormalization"):
        axes = list(range(2, rank))
    elif node.op_type == "GroupNormalization":
        axes = list(range(1, rank))
    elif node.op_type == "LayerNormalization":
        axes = list(range(attribute(node, "axis", -1) % max(rank, 1), rank))
    elif node.op_type == "LpNormalization":
        axes = [attribute(node, "axis", -1)]
    else:
        given = _integers(node, "axes") or []
        if len(node.input) > 1 and node.input[1] in constants:
            given = numpy_helper.to_array(constants[node.input[1]]).reshape(-1).tolist()
        axes = given or ([] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank)))
    count = math.prod(shape[k] or 1 for k in axes if -rank <= k < rank)
    return count // attribute(node, "num_groups", 1)


def _integers(node: onnx.NodeProto, name: str) -> list[int] | None:
    return next((list(a.ints) for a in node.attribute if a.name == name), None)
