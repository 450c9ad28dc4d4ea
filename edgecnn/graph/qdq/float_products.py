"""What multiplies and adds and yet gets no pairs: products of two activations, and weights of forms that neither scheme
quantizes."""

from __future__ import annotations

import onnx

from edgecnn.graph.onnx_graph import OnnxGraph, count_multiply_adds, flat_graph, node_label

_NAMED = 3


def describe_float_products(model: onnx.ModelProto) -> list[str]:
    """One sentence for each kind of node that stays in float, with its share of the multiply-adds; raises `GraphError`
    where shapes are not known."""
    graph, counts = flat_graph(model), count_multiply_adds(model)
    weighted = {node.name for node in graph.weighted()}
    kinds: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.products():
        if node.name not in weighted:
            kinds.setdefault(f"{node.op_type} {_reason(graph, node)}", []).append(node)
    total = max(sum(counts.values()), 1)
    return [
        f"INT8 of {kind}: {_listed(nodes)} ({100 * sum(counts[n.output[0]] for n in nodes) / total:.3g} % of the "
        "multiply-adds)"
        for kind, nodes in kinds.items()
    ]


def _reason(graph: OnnxGraph, node: onnx.NodeProto) -> str:
    first, second = (graph.is_constant(name) for name in node.input[:2])
    if not second:
        return "with its weight on the left" if first else "of two activations"
    return "of constants" if first else "of weights"


def _listed(nodes: list[onnx.NodeProto]) -> str:
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return ", ".join(node_label(n) for n in nodes[:_NAMED]) + more
