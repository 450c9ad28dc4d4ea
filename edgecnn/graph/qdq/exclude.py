"""What stays out of INT8: nodes by name or pattern, and rules on layers that INT8 does not make faster.

The rules are those by which NVIDIA's ModelOpt leaves layers out of INT8 for TensorRT on a GPU, since kernels on Tensor
Cores want 16 channels; a test holds them against what it did on a grid of layers (`tests/fakes/modelopt_grid.py`). They
are asked for by name; nothing is left out by itself.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Sequence

import onnx

from edgecnn.errors import RecipeError, nearest
from edgecnn.graph.onnx_graph import OnnxGraph, Shape, attribute, copy_model, flat_graph, infer_shapes
from edgecnn.graph.qdq.ort_cpu import fails_on_pairs
from edgecnn.graph.qdq.pairs import activated_output
from edgecnn.graph.qdq.placement import place
from edgecnn.quantization import Placement
from edgecnn.results.engine import Scheme

FEW = 16  # channels, or rows and columns of a matrix: less does not fill a Tensor Core
GRANULE = 8

Shapes = dict[str, Shape]


def _few_channels(graph: OnnxGraph, node: onnx.NodeProto, shapes: Shapes) -> bool:
    """A plain Conv between fewer than 16 channels on a side, but for those with a multiple of 8 on a side and a square
    kernel that have 16 on the other side or read the image."""
    if node.op_type != "Conv" or attribute(node, "group", 1) != 1:
        return False
    weight = graph.initializers[node.input[1]].dims
    made, read, kernel = weight[0], weight[1], weight[2:]
    if made >= FEW and read >= FEW:
        return False
    whole = made % GRANULE == 0 or read % GRANULE == 0
    wide = node.input[0] in graph.inputs or made >= FEW or read >= FEW
    return not (whole and wide and len(set(kernel)) == 1)


def _odd_depthwise(graph: OnnxGraph, node: onnx.NodeProto, shapes: Shapes) -> bool:
    """A depthwise or grouped Conv of narrow groups, but for those with a multiple of 8 channels and a kernel of 3 or
    more."""
    if node.op_type != "Conv" or attribute(node, "group", 1) == 1:
        return False
    weight = graph.initializers[node.input[1]].dims
    made, read, kernel = weight[0], weight[1], weight[2:]
    return (made < FEW or read < FEW) and not (made % GRANULE == 0 and all(k >= 3 for k in kernel))


def _gemv(graph: OnnxGraph, node: onnx.NodeProto, shapes: Shapes) -> bool:
    """A Gemm or MatMul whose result is a matrix of one row at batch 1, or with fewer than 16 rows or columns of
    weights."""
    if node.op_type not in ("Gemm", "MatMul"):
        return False
    weight, made = graph.initializers[node.input[1]].dims, shapes.get(node.output[0], ())
    one = len(made) < 3 and any(size in (None, 1) for size in made)  # None: the batch
    return one or min(weight[-2:]) < FEW


RULES: dict[str, Callable[[OnnxGraph, onnx.NodeProto, Shapes], bool]] = {
    "few-channels": _few_channels,
    "odd-depthwise": _odd_depthwise,
    "gemv": _gemv,
}


def find_by_rules(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """rule -> the nodes of `model` that INT8 does not make faster on a GPU by it."""
    graph, shapes = flat_graph(model), infer_shapes(model)
    weighted = [node for node in graph.weighted() if node.input[1] in graph.initializers]
    return {name: tuple(n.name for n in weighted if rule(graph, n, shapes)) for name, rule in RULES.items()}


def find_excluded(model: onnx.ModelProto, patterns: Sequence[str], scheme: Scheme) -> frozenset[str]:
    """The nodes that `patterns` keep out of INT8: names, patterns of them (`*`, `?`, `[...]`), or names of `RULES`,
    which speak of TensorRT's kernels and keep nothing out for `ort-cpu`.

    Raises `RecipeError` for a name or pattern that matches no node that reads INT8 in either scheme, naming the
    nearest, and where no Conv, Gemm or MatMul is left.
    """
    if not patterns:
        return frozenset()
    schemes: tuple[Scheme, ...] = ("tensorrt", "ort-cpu")
    readers = {e.node: None for s in schemes for q in place(model, s, pools=True).activations for e in q.edges}
    by_rule = find_by_rules(model)
    found: set[str] = set()
    for pattern in patterns:
        named = [pattern] if pattern in readers else fnmatch.filter(readers, pattern)
        if pattern in RULES:
            named += by_rule[pattern] if scheme == "tensorrt" else ()
        elif not named:
            hint = nearest(pattern, readers) or f"nodes that can be: {', '.join(list(readers)[:5])} ..."
            raise RecipeError(
                f"exclude {pattern!r} matches no node that reads INT8",
                f"{hint} (rules: {', '.join(RULES)})",
            )
        found.update(named)
    if all(node.name in found for node in flat_graph(model).weighted()):
        raise RecipeError(
            f"exclude {', '.join(map(repr, patterns))}: no Conv, Gemm or MatMul is left to be INT8",
            "exclude less, or take the FP16 graph (--precision fp16)",
        )
    return frozenset(found)


def find_float_convolutions(model: onnx.ModelProto, placement: Placement) -> frozenset[str]:
    """The nodes with pairs of which ONNX Runtime makes no integer kernel: an excluded one, or one that fails on pairs,
    reads the Conv's result."""
    graph = flat_graph(model)
    convolutions = (graph.node[w.node] for w in placement.weights if graph.node[w.node].op_type == "Conv")
    return frozenset(
        conv.name
        for conv in convolutions
        if any(
            r.name in placement.excluded or fails_on_pairs(r)
            for r, _ in graph.readers.get(activated_output(graph, conv), [])
        )
    )


def with_own_weights(model: onnx.ModelProto, excluded: Collection[str]) -> onnx.ModelProto:
    """`model`, or a copy in which the `excluded` nodes share no weight with those whose weights become INT8."""
    graph = OnnxGraph(model)
    shared = {
        node.name
        for node in graph.weighted()
        if node.name in excluded and any(r.name not in excluded for r, _ in graph.readers[node.input[1]])
    }
    if not shared:
        return model
    made = copy_model(model)
    for node in made.graph.node:
        if node.name in shared and node.input[1] in graph.initializers:
            own = onnx.TensorProto()
            own.CopyFrom(graph.initializers[node.input[1]])
            own.name = node.input[1] = f"{node.name}_float_weight"
            made.graph.initializer.append(own)
    return made
