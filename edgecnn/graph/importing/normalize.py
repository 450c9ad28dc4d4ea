"""The steps that bring a foreign graph to the contract: each rewrites it in place and returns what it changed.

They never decide whether the result is still the same function: `foreign.py` proves that by running both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from edgecnn.contract import IR_VERSION, OPSET
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.decision import final_sigmoid
from edgecnn.graph.simplify import node_label
from edgecnn.session import Array


@dataclass(frozen=True)
class Layout:
    """(channels, height, width) of the input, and whether the original wants them channels last."""

    shape: tuple[int, int, int]
    channels_last: bool

    def feed(self, images: Array) -> Array:
        """NCHW images as the original takes them."""
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.channels_last else images


def make_readable(model: onnx.ModelProto) -> list[str]:
    """Functions inlined, initialisers no longer inputs: what must happen before the graph can be looked at."""
    changes = []
    if model.functions:
        names = ", ".join(sorted({f.name for f in model.functions})[:4])
        model.CopyFrom(inliner.inline_local_functions(model))
        changes.append(f"local functions inlined: {names}")
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) < len(model.graph.input):
        changes.append(f"{len(model.graph.input) - len(inputs)} initialisers no longer declared as inputs")
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    return changes


def input_layout(model: onnx.ModelProto, preprocessing: Preprocessing | None) -> tuple[Layout, int | None]:
    """The layout of the only input, and the batch that is frozen in its shape (None: dynamic)."""
    given = model.graph.input[0]
    dims = [d.dim_value or None for d in given.type.tensor_type.shape.dim]
    if dims[1] not in (1, 3) and dims[3] not in (1, 3):
        raise GraphError(
            f"input {given.name!r} is {dims}: neither NCHW nor NHWC of 1 or 3 channels",
            "export it with its channels fixed, as [batch, channels, height, width]",
        )
    last = dims[1] not in (1, 3)
    channels, height, width = (dims[3], dims[1], dims[2]) if last else (dims[1], dims[2], dims[3])
    if preprocessing is not None:
        height, width = height or preprocessing.crop, width or preprocessing.crop
    if channels is None or height is None or width is None:
        raise GraphError(f"input {given.name!r} has no fixed height and width", "say what it takes with --preprocess")
    shape = (channels, height, width)
    if preprocessing is not None and preprocessing.input_shape != shape:
        made, wanted = ("x".join(map(str, s)) for s in (preprocessing.input_shape, shape))
        raise DataError(f"the preprocessing makes {made}, the graph takes {wanted}", "give one of that crop")
    return Layout(shape, last), dims[0]


def rewrite(model: onnx.ModelProto, layout: Layout, expected: Array) -> list[str]:
    """Everything but the batch, in an order in which no step undoes another."""
    changes = [*_without_softmax(model.graph), *_without_sigmoid(model.graph, expected), *_at_opset(model)]
    graph = model.graph  # a new one when the opset was converted
    del graph.value_info[:]  # of the old shapes
    changes += [*_channels_first(graph, layout), *_flat(graph, expected)]
    changes += _renamed(graph, graph.input[0].name, "input")
    changes += _renamed(graph, graph.output[0].name, "logits")
    changes += _scalar_bounds(graph)
    changes += _named_nodes(graph)
    return changes


def _without_softmax(graph: onnx.GraphProto) -> list[str]:
    name = graph.output[0].name
    last = next((n for n in graph.node if name in n.output), None)
    if last is None or last.op_type != "Softmax":
        return []
    graph.node.remove(last)
    _replace(graph, name, last.input[0])
    graph.output[0].name = last.input[0]
    return [f"the Softmax at the end ({node_label(last)}) removed: the output is logits now"]


def _without_sigmoid(graph: onnx.GraphProto, expected: Array) -> list[str]:
    """Of one output; what lies behind it changes shape alone. Raises `GraphError` as `final_sigmoid` does."""
    sigmoid = final_sigmoid(graph, "the graph", expected[0].size != 1)
    if sigmoid is None:
        return []
    name = sigmoid.output[0]
    graph.node.remove(sigmoid)
    if name == graph.output[0].name:
        graph.output[0].name = sigmoid.input[0]
    _replace(graph, name, sigmoid.input[0])
    return [f"the Sigmoid at the end ({node_label(sigmoid)}) removed: the output is a logit now, decided at 0"]


def _at_opset(model: onnx.ModelProto) -> list[str]:
    old = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    changes = []
    if old != OPSET:
        try:
            model.CopyFrom(version_converter.convert_version(model, OPSET))
        except (RuntimeError, version_converter.ConvertError) as exc:
            raise GraphError(
                f"opset {old} cannot be converted to {OPSET}: {' '.join(str(exc).split())[:200]}",
                f"export it again at opset {OPSET}",
            ) from exc
        changes.append(f"opset {old} -> {OPSET}")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    if model.ir_version != IR_VERSION:
        changes.append(f"IR version {model.ir_version} -> {IR_VERSION}")
        model.ir_version = IR_VERSION
    return changes


def _channels_first(graph: onnx.GraphProto, layout: Layout) -> list[str]:
    given = graph.input[0]
    dims = given.type.tensor_type.shape.dim
    for dim, size in zip(list(dims)[1:], layout.shape, strict=True):
        dim.dim_value = size
    if not layout.channels_last:
        return []
    readers = [n for n in graph.node if given.name in n.input]
    if all(n.op_type == "Transpose" and list(n.attribute[0].ints) == [0, 3, 1, 2] for n in readers):
        for node in readers:
            graph.node.remove(node)
            _replace(graph, node.output[0], given.name)
        return ["input NHWC -> NCHW: the Transpose behind it removed"]
    inner = _unique(graph, "input_channels_last")
    _replace(graph, given.name, inner)
    graph.node.insert(0, helper.make_node("Transpose", [given.name], [inner], name=inner, perm=[0, 2, 3, 1]))
    return ["input NHWC -> NCHW: a Transpose added behind it, which costs time; better export it as NCHW"]


def _flat(graph: onnx.GraphProto, expected: Array) -> list[str]:
    if expected.ndim == 2:
        return []
    if np.prod(expected.shape[2:]) != 1 or expected.ndim < 2:
        raise GraphError(
            f"output {graph.output[0].name!r} is {['N', *expected.shape[1:]]}, not [N, classes]",
            "a classifier is needed: export it with its head, and one logit as [N, 1]",
        )
    name = _unique(graph, "flatten")
    graph.node.append(helper.make_node("Flatten", [graph.output[0].name], [name], name=name, axis=1))
    graph.output[0].name = name
    return [f"a Flatten added at the end: the output was {['N', *expected.shape[1:]]}"]


def _renamed(graph: onnx.GraphProto, old: str, new: str) -> list[str]:
    if old == new:
        return []
    if new in _names(graph):
        _replace(graph, new, _unique(graph, f"{new}_inner"))
    _replace(graph, old, new)
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    return [f"{old!r} renamed to {new!r}"]


def _scalar_bounds(graph: onnx.GraphProto) -> list[str]:
    """Clip takes scalars; some exporters write tensors of shape [1], which only some runtimes accept."""
    bounds = {name for n in graph.node if n.op_type == "Clip" for name in n.input[1:]}
    changed = [i for i in graph.initializer if i.name in bounds and list(i.dims) == [1]]
    for initializer in changed:
        del initializer.dims[:]
    return [f"{len(changed)} Clip bounds of shape [1] made scalars"] if changed else []


def _named_nodes(graph: onnx.GraphProto) -> list[str]:
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


def free_reshapes(graph: onnx.GraphProto, batch: int) -> list[str]:
    """Take `batch` out of the constants of the Reshapes of activations; returns the names of those nodes."""
    constants = {i.name: i for i in graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute}
    freed = []
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] in constants or node.input[1] not in constants:
            continue
        sizes = numpy_helper.to_array(constants[node.input[1]]).astype(np.int64)
        if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == batch:
            sizes = sizes.copy()
            sizes[0] = 0 if -1 in sizes else -1  # 0 copies the batch of the input
            name = _unique(graph, f"{node.name}.shape")
            graph.initializer.append(numpy_helper.from_array(sizes, name))
            node.input[1] = name
            freed.append(node.name)
    return freed


def set_batch(graph: onnx.GraphProto, batch: int | str, expected: Array) -> None:
    """Declare the batch (a size, or the name of a dynamic axis) and the number of classes."""
    graph.input[0].type.tensor_type.shape.dim[0].CopyFrom(_dim(batch))
    classes = int(np.prod(expected.shape[1:]))
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])
    graph.output[0].CopyFrom(output)


def _dim(size: int | str) -> onnx.TensorShapeProto.Dimension:
    kind = onnx.TensorShapeProto.Dimension
    return kind(dim_param=size) if isinstance(size, str) else kind(dim_value=size)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """`graph` and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _replace(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor wherever a node or an initialiser of the graph, or of a graph inside it, names it."""
    for inner in _graphs(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        for initializer in inner.initializer:
            initializer.name = new if initializer.name == old else initializer.name


def _names(graph: onnx.GraphProto) -> set[str]:
    used: Iterable[str] = (n for g in _graphs(graph) for node in g.node for n in (*node.input, *node.output))
    return {*used, *(i.name for i in graph.initializer)}


def _unique(graph: onnx.GraphProto, stem: str) -> str:
    taken = _names(graph)
    return next(n for k in range(len(taken) + 2) if (n := f"{stem}_{k}" if k else stem) not in taken)
