"""Operators of newer opsets in those of opset 19.

What changed in an operator since then is its types alone, with few exceptions: such a node stays as it is. What is new
is written in older operators. ONNX's own converter has no way down for most of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from edgecnn.contract import OPSET
from edgecnn.errors import GraphError
from edgecnn.graph.importing.functions import is_function, write_out_functions
from edgecnn.graph.importing.names import free_name, graphs_in
from edgecnn.graph.onnx_graph import Shape, attribute, infer_shapes, node_label, opset_of


class _Writer:
    """Adds nodes in place of one, which they are named after, and their constants."""

    def __init__(self, graph: onnx.GraphProto, node: onnx.NodeProto, shapes: dict[str, Shape]) -> None:
        self.graph, self.node, self.shapes = graph, node, shapes
        self.stem = node.name or node.output[0]
        self.made: list[onnx.NodeProto] = []

    def add(self, kind: str, *inputs: str, output: str = "") -> str:
        """A node of one output, whose name is returned."""
        output = output or free_name(self.graph, f"{self.stem}_{kind.lower()}_{len(self.made)}")
        self.made.append(helper.make_node(kind, list(inputs), [output], f"{self.stem}_{len(self.made)}"))
        return output

    def constant(self, value: np.typing.ArrayLike, what: str, dtype: type = np.float32) -> str:
        """An initializer of this value."""
        name = free_name(self.graph, f"{self.stem}_{what}")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def by_channel(self, name: str) -> str:
        """A tensor [C] as [C, 1, 1]."""
        held = next((i for i in self.graph.initializer if i.name == name), None)
        if held is not None:
            return self.constant(numpy_helper.to_array(held).reshape(-1, 1, 1), f"{name}_by_channel")
        return self.add("Reshape", name, self.constant([-1, 1, 1], "by_channel", np.int64))


def _write_gelu(to: _Writer) -> None:
    """x / 2 (1 + erf(x / sqrt 2)), or its approximation by tanh (Hendrycks and Gimpel, arXiv:1606.08415)."""
    x = to.node.input[0]
    if attribute(to.node, "approximate", b"none") == b"tanh":
        cube = to.add("Mul", to.add("Mul", x, x), x)
        inner = to.add("Add", x, to.add("Mul", cube, to.constant(0.044715, "cubic")))
        bent = to.add("Tanh", to.add("Mul", inner, to.constant(math.sqrt(2 / math.pi), "scale")))
    else:
        bent = to.add("Erf", to.add("Div", x, to.constant(math.sqrt(2), "root")))
    risen = to.add("Mul", x, to.add("Add", bent, to.constant(1, "one")))
    to.add("Mul", risen, to.constant(0.5, "half"), output=to.node.output[0])


def _write_swish(to: _Writer) -> None:
    x = to.node.input[0]
    alpha = attribute(to.node, "alpha", 1.0)
    scaled = x if alpha == 1 else to.add("Mul", x, to.constant(alpha, "alpha"))
    to.add("Mul", x, to.add("Sigmoid", scaled), output=to.node.output[0])


def _write_group_normalization(to: _Writer) -> None:
    """InstanceNormalization of [N, groups, rest], then scale and bias of each channel (Wu and He, arXiv:1803.08494)."""
    x, scale, bias = to.node.input
    groups = attribute(to.node, "num_groups", 1)
    rows = to.add("Reshape", x, to.constant([0, groups, -1], "groups", np.int64))
    flat = to.add("InstanceNormalization", rows, to.constant([1] * groups, "ones"), to.constant([0] * groups, "zeros"))
    to.made[-1].attribute.append(helper.make_attribute("epsilon", attribute(to.node, "epsilon", 1e-5)))
    sizes = to.shapes.get(x, (None,))[1:]
    fixed = [size for size in sizes if size is not None]
    known = len(fixed) == len(sizes) > 0
    shape = to.constant([0, *fixed], "shape", np.int64) if known else to.add("Shape", x)
    normal = to.add("Reshape", flat, shape)
    to.add("Add", to.add("Mul", normal, to.by_channel(scale)), to.by_channel(bias), output=to.node.output[0])


_WRITTEN: dict[str, Callable[[_Writer], None]] = {
    "Gelu": _write_gelu,
    "GroupNormalization": _write_group_normalization,
    "Swish": _write_swish,
}


def downgrade_opset(model: onnx.ModelProto) -> list[str]:
    """Write the operators that opset 19 lacks in those that it has, in place; raises `GraphError` for one that is not
    known here."""
    old = opset_of(model)
    nodes_of_all = [n for g in graphs_in(model.graph) for n in g.node if n.domain in ("", "ai.onnx")]
    new = {n.op_type for n in nodes_of_all if n.op_type not in _WRITTEN and not _stays(n, old)}
    said = write_out_functions(model, {kind for kind in new if is_function(kind, old)})
    written: set[str] = set()
    shapes: dict[str, Shape] | None = None
    for graph in graphs_in(model.graph):
        nodes: list[onnx.NodeProto] = []
        for node in list(graph.node):
            if node.domain not in ("", "ai.onnx") or _stays(node, old):
                nodes.append(node)
                continue
            if node.op_type not in _WRITTEN:
                raise GraphError(
                    f"node {node_label(node)}: {node.op_type} of opset {old} cannot be said in opset {OPSET}",
                    f"export it at opset {OPSET}, or without {node.op_type}",
                )
            shapes = infer_shapes(model) if shapes is None else shapes
            writer = _Writer(graph, node, shapes)
            _WRITTEN[node.op_type](writer)
            written.add(node.op_type)
            nodes += writer.made
        del graph.node[:]
        graph.node.extend(nodes)
    for opset in model.opset_import:
        opset.version = OPSET if opset.domain in ("", "ai.onnx") else opset.version
    return [*said, *(f"{kind} of opset {old} written in older operators" for kind in sorted(written))]


def _stays(node: onnx.NodeProto, opset: int) -> bool:
    """Whether opset 19 has what `node` is: the same operator, or one that got no more than types since. Attributes that
    19 lacks and that have their default are dropped."""
    now, then = _schema(node.op_type, opset), _schema(node.op_type, OPSET)
    if now is None or then is None:
        return False
    if node.op_type == "GroupNormalization":  # scale and bias were of each group before 21
        return now.since_version < 21
    surplus = [a for a in node.attribute if a.name not in then.attributes]
    defaults = {a.name: now.attributes[a.name].default_value for a in surplus if a.name in now.attributes}
    if any(helper.get_attribute_value(a) != _value(defaults.get(a.name)) for a in surplus):
        return False
    for a in surplus:
        node.attribute.remove(a)
    return len(node.input) <= then.max_input


def _schema(kind: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(kind, opset, "")
    except defs.SchemaError:
        return None


def _value(default: onnx.AttributeProto | None) -> object:
    return None if default is None or not default.type else helper.get_attribute_value(default)
