"""Names in a graph that is rewritten in place: of tensors, also in graphs inside its nodes, and of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> list[str]:
    """Rename an input or output of the graph; a tensor inside that has the new name gets another."""
    if old == new:
        return []
    if new in _names_of(graph):
        replace_tensor(graph, new, free_name(graph, f"{new}_inner"))
    replace_tensor(graph, old, new)
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    return [f"{old!r} renamed to {new!r}"]


def replace_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor wherever a node or an initializer of the graph, or of a graph inside it, names it."""
    for inner in graphs_in(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        for initializer in inner.initializer:
            initializer.name = new if initializer.name == old else initializer.name


def name_nodes(graph: onnx.GraphProto) -> list[str]:
    """Every node gets a name of its own: sensitivity tables and precision constraints go by it."""
    taken: set[str] = set()
    count = 0
    for node in graph.node:
        if not node.name or node.name in taken:
            count += 1
            stem = node.name or node.op_type.lower()
            node.name = next(n for k in range(len(taken) + 1) if (n := f"{stem}_{k}") not in taken)
        taken.add(node.name)
    return [f"{count} nodes named"] if count else []


def free_name(graph: onnx.GraphProto, stem: str) -> str:
    """`stem`, with a number behind it where a tensor has that name."""
    taken = _names_of(graph)
    return next(n for k in range(len(taken) + 2) if (n := f"{stem}_{k}" if k else stem) not in taken)


def graphs_in(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_in(inner)


def _names_of(graph: onnx.GraphProto) -> set[str]:
    used: Iterable[str] = (n for g in graphs_in(graph) for node in g.node for n in (*node.input, *node.output))
    return {*used, *(i.name for i in graph.initializer)}
