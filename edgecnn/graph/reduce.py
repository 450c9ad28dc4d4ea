"""The smallest part of a graph that still fails, and nothing in it of whose graph it was.

`fails` says whether a graph fails as the whole one does; every function gives back a graph of which that is true.
Delta debugging: A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.load import onnx_errors
from edgecnn.graph.onnx_graph import without_weights

Fails = Callable[[onnx.ModelProto], bool]
Infos = Mapping[str, onnx.ValueInfoProto]
Positions = tuple[int, ...]  # of nodes, in the order of the graph

_STRUCTURE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING)  # shapes, axes, indices
_SPARSE = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)


def reduce_nodes(model: onnx.ModelProto, fails: Fails, near: str = "") -> onnx.ModelProto:
    """The part of `model` of which every node is needed for the failure; `near` is a node that the failure names.

    What a part reads from the rest becomes its input, what nobody reads its output; a node whose output is like its
    input is also tried to be passed by. Raises `GraphError` where nothing fails once the graph is written anew.
    """
    model = _with_plain_constants(model)
    infos = _infos(model)
    whole = tuple(range(len(model.graph.node)))
    tried: dict[Positions, bool] = {}

    def part_fails(kept: Positions) -> bool:
        if kept not in tried:
            made = _part(model, kept, infos)
            tried[kept] = made is not None and fails(made)
        return tried[kept]

    if not part_fails(whole):
        raise GraphError(
            "the failure is gone once its nodes are written to a new file",
            "it lies in what stands beside the nodes: sparse weights, metadata, or several graphs in one file",
        )
    kept = next((ball for ball in _balls(model, near) if part_fails(ball)), whole)
    kept = _minimize(kept, part_fails)
    made = _part(model, kept, infos)
    assert made is not None, "it was tried"
    return _pass_by(made, infos, fails)


def replace_values(model: onnx.ModelProto, fails: Fails, seed: int = 0) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """`model` with seeded random weights of the same shapes and types, and the tensors that had to keep theirs.

    Shapes, axes and indices stay. Scales become 0.01 to 0.1, zero points 0, variances positive.
    """
    made = _copied(model)
    names = [name for name, tensor in _tensors(made) if _is_weight(made, name, tensor)]
    rng = np.random.default_rng(seed)
    roles = _roles(made)
    for name, tensor in _tensors(made):
        if name in names:
            _randomize(tensor, roles.get(name, ""), rng)
    if fails(made):
        return made, ()
    made, needed = _copied(model), []
    for position, (name, tensor) in enumerate(_tensors(model)):
        if name not in names:
            continue
        trial = _copied(made)
        _randomize(list(_tensors(trial))[position][1], roles.get(name, ""), np.random.default_rng(seed + position))
        if fails(trial):
            made = trial
        else:
            needed.append(f"{name} {list(tensor.dims)}")
    return made, tuple(needed)


def replace_names(model: onnx.ModelProto, fails: Fails) -> tuple[onnx.ModelProto, bool]:
    """`model` with names that say nothing, and whether that could be had; operators keep theirs."""
    made, renamed = _copied(model), dict[str, str]()
    for kind, values in (("input", made.graph.input), ("output", made.graph.output)):
        renamed |= {value.name: f"{kind}{k}" for k, value in enumerate(values)}
    axes: dict[str, str] = {}
    for graph in (made.graph, *_inner_graphs(made)):
        for value in (*graph.input, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = axes.setdefault(dim.dim_param, f"n{len(axes)}")
    count = [0]
    _rename(made.graph, renamed, count)
    for function in made.functions:
        _rename_function(function, count)
    return (made, True) if fails(made) else (model, False)


def _minimize(kept: Positions, fails: Callable[[Positions], bool]) -> Positions:
    """ddmin: halves first, then ever smaller parts, at last each node alone."""
    parts = 2
    while len(kept) > 1:
        size = math.ceil(len(kept) / parts)
        chunks = [kept[start : start + size] for start in range(0, len(kept), size)]
        rests = [tuple(k for k in kept if k not in chunk) for chunk in chunks] if len(chunks) > 2 else []
        smaller = next((part for part in (*chunks, *rests) if fails(part)), None)
        if smaller is not None:
            parts = 2 if smaller in chunks else max(len(chunks) - 1, 2)
            kept = smaller
        elif size == 1:
            break
        else:
            parts = min(2 * len(chunks), len(kept))
    return kept


def _balls(model: onnx.ModelProto, near: str) -> Iterator[Positions]:
    """The node of that name, with ever more of what it reads and what reads it."""
    nodes = model.graph.node
    ball = {k for k, node in enumerate(nodes) if near and near in (node.name, *node.output)}
    makers = {name: k for k, node in enumerate(nodes) for name in node.output}
    reach = 1
    while ball and len(ball) < len(nodes):
        yield tuple(sorted(ball))
        for _ in range(reach):
            made = {name for k in ball for name in nodes[k].output if name}
            ball |= {makers[name] for k in ball for name in _read(nodes[k]) if name in makers}
            ball |= {k for k, node in enumerate(nodes) if made & set(_read(node))}
        reach *= 2


def _part(model: onnx.ModelProto, kept: Positions, infos: Infos) -> onnx.ModelProto | None:
    """The nodes `kept` as a graph of their own, without weights that nobody reads and without any metadata; None
    where the type of an input is not known."""
    nodes = [model.graph.node[k] for k in kept]
    made = {name for node in nodes for name in node.output if name}
    read = dict.fromkeys(name for node in nodes for name in _read(node))
    held = {tensor.name for tensor in model.graph.initializer}
    missing = [name for name in read if name not in made and name not in held]
    if any(name not in infos for name in missing):
        return None
    wanted = {value.name for value in model.graph.output} | {name for node in model.graph.node for name in _read(node)}
    unread = [name for node in nodes for name in node.output if name and name not in read]
    given = [name for name in unread if name in wanted] or unread
    unknown = helper.make_tensor_value_info("", TensorProto.FLOAT, None)
    part = onnx.ModelProto(ir_version=model.ir_version, producer_name="edgecnn")
    part.graph.name = "graph"
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    part.graph.input.extend(infos[name] for name in missing)
    for name in given:
        part.graph.output.append(infos.get(name, unknown))
        part.graph.output[-1].name = name
    used = {"" if node.domain == "ai.onnx" else node.domain for node in nodes} | {""}
    part.functions.extend(f for f in model.functions if (f.domain, f.name) in {(n.domain, n.op_type) for n in nodes})
    used |= {node.domain for function in part.functions for node in function.node}
    part.opset_import.extend(o for o in model.opset_import if ("" if o.domain == "ai.onnx" else o.domain) in used)
    _forget(part.graph)
    for function in part.functions:
        _forget(function)
    return part


def _with_plain_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose Constant nodes hold their numbers as tensors, which are replaced with the weights."""
    made = _copied(model)
    held = (made.graph, *made.functions, *_inner_graphs(made))
    for node in (node for graph in held for node in graph.node):
        for a in node.attribute if node.op_type == "Constant" else ():
            if a.name in ("value_float", "value_floats"):
                values = np.array(helper.get_attribute_value(a), np.float32)
                a.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
    return made


def _forget(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Without what exporters write beside the nodes: stack traces, paths and types of tensors among it."""
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        if field in graph.DESCRIPTOR.fields_by_name:
            graph.ClearField(field)
    held = () if isinstance(graph, onnx.FunctionProto) else (*graph.initializer, *graph.input, *graph.output)
    for message in (*graph.node, *held):
        message.doc_string = ""
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            del message.metadata_props[:]
        if isinstance(message, onnx.ValueInfoProto):
            message.type.ClearField("denotation")
            for dim in message.type.tensor_type.shape.dim:
                dim.ClearField("denotation")
    for a in (a for node in graph.node for a in node.attribute):
        a.doc_string = ""
        for tensor in (a.t, *a.tensors) if a.type in (AttributeProto.TENSOR, AttributeProto.TENSORS) else ():
            tensor.name = tensor.doc_string = ""
        for sparse in (a.sparse_tensor, *a.sparse_tensors) if a.type in _SPARSE else ():
            sparse.values.name = sparse.indices.name = ""
        for inner in _graphs(a):
            _forget(inner)


def _pass_by(model: onnx.ModelProto, infos: Infos, fails: Fails) -> onnx.ModelProto:
    """`model` without the nodes that can be left out by giving their readers what they read."""
    position = 0
    while position < len(model.graph.node):
        shorter = next((trial for trial in _without(model, position, infos) if fails(trial)), None)
        model, position = (model, position + 1) if shorter is None else (shorter, 0)
    return model


def _without(model: onnx.ModelProto, position: int, infos: Infos) -> Iterator[onnx.ModelProto]:
    """`model` without one node, once for each input that is like its only output."""
    node = model.graph.node[position]
    outputs = [name for name in node.output if name]
    if len(outputs) != 1 or outputs[0] in {value.name for value in model.graph.output}:
        return
    for name in node.input:
        if name in infos and outputs[0] in infos and infos[name].type == infos[outputs[0]].type:
            trial = _copied(model)
            del trial.graph.node[position]
            _rename(trial.graph, {outputs[0]: name}, None)
            if (trimmed := _part(trial, tuple(range(len(trial.graph.node))), infos)) is not None:
                yield trimmed


def _infos(model: onnx.ModelProto) -> Infos:
    """Type and shape of every tensor that has one, as inferred and as the file states."""
    inferred: list[onnx.ValueInfoProto] = []
    with contextlib.suppress(GraphError), onnx_errors("the graph"):  # else what the file states has to do
        found = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True).graph
        inferred = [*found.value_info, *found.output]
    stated = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    infos = {value.name: value for value in (*stated, *inferred) if value.type.tensor_type.elem_type}
    return infos | {value.name: value for value in (*model.graph.input, *model.graph.output)}


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, in graphs within it too."""
    yield from filter(None, node.input)
    for graph in (g for a in node.attribute for g in _graphs(a)):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        yield from (name for inner in graph.node for name in _read(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)


def _inner_graphs(holder: onnx.ModelProto | onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs within nodes, at every depth."""
    nodes = (
        [*holder.graph.node, *(n for f in holder.functions for n in f.node)]
        if isinstance(holder, onnx.ModelProto)
        else holder.node
    )
    for graph in (g for node in nodes for a in node.attribute for g in _graphs(a)):
        yield graph
        yield from _inner_graphs(graph)


def _graphs(a: AttributeProto) -> Iterator[onnx.GraphProto]:
    if a.type == AttributeProto.GRAPH:
        yield a.g
    yield from a.graphs


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor that the file holds, by the name under which it is read."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    yield from ((sparse.values.name, sparse.values) for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: onnx.NodeProto) -> Iterator[tuple[str, TensorProto]]:
    name = node.output[0] if node.output else node.name
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            yield name, a.t
        yield from ((name, tensor) for tensor in a.tensors)
        if a.type in _SPARSE:
            yield from ((name, sparse.values) for sparse in (a.sparse_tensor, *a.sparse_tensors))
        for graph in _graphs(a):
            yield from _tensors_of(graph)


def _roles(model: onnx.ModelProto) -> dict[str, str]:
    roles: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            roles |= dict(zip(node.input[:3], ("quantized", "scale", "zero point"), strict=False))
        elif node.op_type == "BatchNormalization":
            roles |= dict(zip(node.input[4:5], ("scale",), strict=False))
    return roles


def _is_weight(model: onnx.ModelProto, name: str, tensor: TensorProto) -> bool:
    return tensor.data_type not in _STRUCTURE or _roles(model).get(name) in ("quantized", "zero point")


def _randomize(tensor: TensorProto, role: str, rng: np.random.Generator) -> None:
    shape, dtype = tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)
    whole = np.issubdtype(dtype, np.integer) or tensor.data_type in (TensorProto.INT4, TensorProto.UINT4)
    if role == "zero point":
        values = np.zeros(shape)
    elif role == "scale":
        values = rng.uniform(0.01, 0.1, shape)
    else:
        values = rng.integers(0, 8, shape) if whole else rng.normal(0, 0.1, shape)
    made = numpy_helper.from_array(np.asarray(values).astype(dtype), tensor.name)
    tensor.CopyFrom(made)


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _rename(graph: onnx.GraphProto, renamed: dict[str, str], count: list[int] | None) -> None:
    """Rename tensors, and with a `count` the nodes and every tensor that has no name in `renamed` yet, in place."""

    def new(name: str) -> str:
        if name and name not in renamed and count is not None:
            count[0] += 1
            renamed[name] = f"t{count[0]}"
        return renamed.get(name, name)

    sparse = (tensor.values for tensor in graph.sparse_initializer)
    for value in (*graph.input, *graph.output, *graph.initializer, *sparse):
        value.name = new(value.name)
    for number, node in enumerate(graph.node):
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        if count is not None:
            node.name = f"{node.op_type}{number}"
        for inner in (g for a in node.attribute for g in _graphs(a)):
            if count is not None:
                inner.name = "graph"
            _rename(inner, renamed, count)


def _rename_function(function: onnx.FunctionProto, count: list[int]) -> None:
    """Rename what stands within a function, in place; what its inputs and outputs are is told by their order."""
    body = onnx.GraphProto(node=function.node)
    renamed = {name: f"{kind}{k}" for kind in ("input", "output") for k, name in enumerate(getattr(function, kind))}
    _rename(body, renamed, count)
    del function.node[:]
    function.node.extend(body.node)
    for names in (function.input, function.output):
        names[:] = [renamed[name] for name in names]


def operators_of(nodes: Sequence[onnx.NodeProto]) -> tuple[str, ...]:
    """The operators of nodes, in order, each with its domain where that is not the standard one."""
    return tuple(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes)
