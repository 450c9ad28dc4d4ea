"""Operators that ONNX defines by others, written out in those: newer ones than opset 19 has, and those that TensorRT's
parser does not take or that have no FP16 in ONNX."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import defs, helper, inliner

from edgecnn.graph.importing.names import graphs_in
from edgecnn.graph.load import onnx_errors
from edgecnn.graph.onnx_graph import opset_of

_UNFIT = frozenset({"Celu", "MeanVarianceNormalization"})
_BY_CHANNEL_SINCE = 21  # opset from which GroupNormalization has a scale for each channel, not for each group


def write_out_functions(model: onnx.ModelProto, newer: Collection[str] = ()) -> list[str]:
    """Replace the operators in `newer`, and those that later steps do not take, by what defines them, in place.

    Raises `GraphError` where ONNX cannot do so.
    """
    opset = opset_of(model)
    wanted = {*newer, *_UNFIT, *(["GroupNormalization"] if opset < _BY_CHANNEL_SINCE else [])}
    found = {n.op_type for g in graphs_in(model.graph) for n in g.node if n.domain == "" and n.op_type in wanted}
    kinds = sorted(kind for kind in found if is_function(kind, opset))
    if not kinds:
        return []
    for node in (n for g in graphs_in(model.graph) for n in g.node if n.op_type in kinds):
        known = {a.name for a in node.attribute}
        schema = defs.get_schema(node.op_type, opset, "").attributes
        unsaid = [a.default_value for name, a in schema.items() if name not in known and a.default_value.type]
        node.attribute.extend(unsaid)  # the inliner leaves them out
    typed = onnx.ModelProto()
    with onnx_errors(", ".join(kinds), "cannot be written out", "export the network with other operators"):
        typed.CopyFrom(onnx.shape_inference.infer_shapes(model))
        held = typed.graph.initializer
        # what defines an operator may depend on the types
        typed.graph.value_info.extend(helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in held)
        made = inliner.inline_selected_functions(typed, [("", kind) for kind in kinds], inline_schema_functions=True)
    del made.graph.value_info[:]
    model.CopyFrom(made)
    return [f"{', '.join(kinds)} written out in the operators that define {'it' if len(kinds) == 1 else 'them'}"]


def is_function(kind: str, opset: int) -> bool:
    """Whether ONNX defines the operator by others."""
    try:
        schema = defs.get_schema(kind, opset, "")
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
