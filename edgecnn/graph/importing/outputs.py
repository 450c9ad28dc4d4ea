"""Which tensor of a foreign graph holds the classes: of several outputs the one that is named."""

from __future__ import annotations

import onnx

from edgecnn.errors import GraphError, nearest
from edgecnn.graph.importing.names import graphs_in
from edgecnn.graph.importing.opset import drop_unread_inputs
from edgecnn.graph.onnx_graph import OnnxGraph, node_label

_DECIDES = {"ArgMax", "ArgMin", "TopK", "ZipMap", "ArrayFeatureExtractor", "Hardmax", "NonMaxSuppression"}
_PASSES = {"Cast", "Flatten", "Gather", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


def choose_output(model: onnx.ModelProto, name: str) -> list[str]:
    """Make `name`, an output or any other tensor of the graph, the only output, without what it does not need, inputs
    included; with "" the graph must have one, which does not decide.

    Raises `GraphError` for several outputs of which none was named, for a name that the graph has not, and for an
    output that is the number of a class.
    """
    index = OnnxGraph(model)
    if not name:
        _require_one_output(index)
        return _remove_dead(model)
    if name not in index.producer:
        known = nearest(name, index.producer) or f"it has the outputs {', '.join(index.outputs)}"
        raise GraphError(f"no tensor of the graph is called {name!r}", known)
    _require_undecided(index, name)
    if list(index.outputs) == [name]:
        return _remove_dead(model)
    graph = model.graph
    declared = next((o for o in (*graph.output, *graph.value_info) if o.name == name), None)
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(declared or _infer(model, name))
    others = [o for o in index.outputs if o != name]
    del graph.output[:]
    graph.output.append(kept)
    removed = remove_unneeded(graph)
    whose = "output" if name in index.outputs else "inner tensor"
    return [
        f"{whose} {name!r} taken as the output, without {', '.join(map(repr, others))} and {removed} nodes of theirs",
        *drop_unread_inputs(model),
    ]


def _remove_dead(model: onnx.ModelProto) -> list[str]:
    removed = remove_unneeded(model.graph)
    said = [f"{removed} nodes removed that the output does not need"] if removed else []
    return [*said, *drop_unread_inputs(model)]


def remove_unneeded(graph: onnx.GraphProto) -> int:
    """Remove the nodes and initializers that no output needs; returns how many nodes."""
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
            for inner in (g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)):
                needed.update(n for g in graphs_in(inner) for m in g.node for n in m.input)
                needed.update(o.name for o in inner.output)
    removed = len(graph.node) - len(kept)
    constants = [i for i in graph.initializer if i.name in needed]
    nodes = kept[::-1]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    return removed


def _require_one_output(index: OnnxGraph) -> None:
    if len(index.outputs) > 1:
        deciding = [d.input[0] for name in index.outputs if (d := _deciding(index, name))]
        choices = ", or ".join(f"--output-name {name}" for name in deciding[:1] or index.outputs)
        raise GraphError(
            f"the graph has {len(index.outputs)} outputs: {', '.join(map(repr, index.outputs))}",
            f"say which holds the logits: {choices}",
        )
    if index.outputs:
        _require_undecided(index, index.output)


def _require_undecided(index: OnnxGraph, name: str) -> None:
    node = _deciding(index, name)
    if node is not None:
        raise GraphError(
            f"output {name!r} is decided already, by {node.op_type} (node {node_label(node)}): logits are needed",
            f"take what it reads: --output-name {node.input[0]}",
        )


def _deciding(index: OnnxGraph, name: str) -> onnx.NodeProto | None:
    """The node that decides, if what follows it up to tensor `name` changes shape or type alone."""
    node = index.producer.get(name)
    while node is not None and node.op_type in _PASSES:
        node = index.producer.get(node.input[0])
    return node if node is not None and node.op_type in _DECIDES else None


def _infer(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    infos = onnx.shape_inference.infer_shapes(model).graph.value_info
    return next((i for i in infos if i.name == name), onnx.ValueInfoProto(name=name))
