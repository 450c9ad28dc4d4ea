"""ONNX files in and out: read, looked over, and onnx's errors translated in one place."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import checker, helper, numpy_helper, shape_inference, version_converter

from edgecnn.artifact.external import external_files, require_size
from edgecnn.backends._graph_file import read_structure
from edgecnn.backends._onnxruntime import one_line
from edgecnn.backends._training_mode import require_inference
from edgecnn.errors import ArtifactError, EdgecnnError, GraphError
from edgecnn.graph.onnx_graph import node_label, type_name

_QUANTIZED = re.compile(r"(Dynamic)?(Deq|Q)uantizeLinear|QLinear\w+|QGemm|\w+Integer(ToFloat)?")  # also com.microsoft's
_PACKED = {
    kind
    for name, kind in onnx.TensorProto.DataType.items()
    if name in ("STRING", "COMPLEX64", "COMPLEX128") or name.endswith(("INT4", "INT2")) or name.startswith("FLOAT4")
}  # whose values are not one element of the file each
_ONNX_ERRORS = (
    DecodeError,
    checker.ValidationError,
    shape_inference.InferenceError,
    version_converter.ConvertError,
    RuntimeError,  # of the converter, for an operator that it has no adapter for
    ValueError,  # of protobuf, for a field of another type
)


@contextlib.contextmanager
def onnx_errors(
    where: str | Path,
    doing: str = "not an ONNX graph",
    hint: str = "the file is damaged: export it again",
    error: type[EdgecnnError] = GraphError,
) -> Iterator[None]:
    """What onnx raises inside, on loading, checking, inferring or converting, becomes `error`: "WHERE: DOING (what it
    said)"."""
    try:
        yield
    except EdgecnnError:
        raise
    except FileNotFoundError as exc:
        raise error(f"{where}: no such file", "check the path, or export the graph first") from exc
    except OSError as exc:
        raise error(f"{where}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    except _ONNX_ERRORS as exc:
        raise error(f"{where}: {doing} ({one_line(exc)})", hint) from exc


@contextlib.contextmanager
def naming(source: Path) -> Iterator[None]:
    """A `GraphError` raised inside says which file it is of."""
    try:
        yield
    except GraphError as exc:
        if str(source) in exc.message:
            raise
        raise type(exc)(f"{source}: {exc.message}", exc.hint) from exc


@contextlib.contextmanager
def artifact_errors() -> Iterator[None]:
    """An `ArtifactError` raised inside is one of the graph."""
    try:
        yield
    except ArtifactError as exc:
        raise GraphError(exc.message, exc.hint) from exc


def load_structure(path: Path) -> onnx.ModelProto:
    """The ONNX model in `path` without its external data; raises `GraphError` when it is missing or damaged."""
    with onnx_errors(path), artifact_errors():
        model = read_structure(path)
    graph = model.graph
    texts = (t for n in graph.node for t in (n.op_type, n.domain, n.name, *n.input, *n.output))
    named = (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    about = (model.producer_name, model.producer_version, model.domain, model.doc_string, graph.name, graph.doc_string)
    for text in (*about, *texts, *named):
        if not isinstance(text, str):  # protobuf hands out bytes where they are not UTF-8
            raise GraphError(f"{path}: the name {text!r} is not UTF-8 text", "the file is damaged: export it again")
    return model


def load_graph(path: Path) -> onnx.ModelProto:
    """The ONNX model in `path` with its external data; raises `GraphError` when it is missing, damaged or over 2 GB."""
    model = load_structure(path)
    held = [*model.graph.initializer, *(a.t for n in model.graph.node for a in n.attribute if a.HasField("t"))]
    external = [i for i in held if i.data_location == onnx.TensorProto.EXTERNAL]
    _require_known_types(path, held)
    with artifact_errors():
        require_size(path, sum(bytes_of(i) for i in external))
        external_files(path)
    if external:
        with onnx_errors(path, "its external data cannot be read"):
            onnx.load_external_data_for_model(model, str(path.parent))
    _require_all_values(path, held)
    return model


def _require_known_types(path: Path, held: Iterable[onnx.TensorProto]) -> None:
    for tensor in held:
        known = tensor.data_type in onnx.TensorProto.DataType.values() and tensor.data_type
        if not known or min(tensor.dims, default=0) < 0:
            raise GraphError(
                f"{path}: the weights {tensor.name!r} are of type {tensor.data_type} and shape {list(tensor.dims)}, "
                "which ONNX does not have",
                "the file is damaged: export it again",
            )


def _require_all_values(path: Path, held: Iterable[onnx.TensorProto]) -> None:
    """Raise `GraphError` for a tensor that holds fewer or more values than its shape says."""
    for tensor in held:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        if tensor.data_type in _PACKED:
            with onnx_errors(path, f"the weights {tensor.name!r} are not what their shape and type say"):
                numpy_helper.to_array(tensor)
            continue
        if tensor.HasField("raw_data"):
            found = len(tensor.raw_data) // helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        else:
            found = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
        if found != math.prod(tensor.dims):
            raise GraphError(
                f"{path}: the weights {tensor.name!r} hold {found} values, and their shape is {list(tensor.dims)}",
                "the file is damaged: export it again",
            )


def as_it_is(source: Path | str) -> str:
    """How a graph that another tool quantized is measured, for a hint."""
    return f"as it is, `edgecnn validate {source} --reference REFERENCE.npz --data D` measures it"


def require_unquantized(model: onnx.ModelProto, source: Path | str = "FILE") -> None:
    """Raise `GraphError` for a graph that holds quantized values; the hint tells how the file `source` is measured."""
    node = next((n for n in model.graph.node if _QUANTIZED.fullmatch(n.op_type)), None)
    if node is not None:
        raise GraphError(
            f"node {node_label(node)}: the graph is already quantized",
            f"give the float32 graph that it was made from; {as_it_is(source)}",
        )


def require_float_classifier(model: onnx.ModelProto, *, pairs: bool = False, features: bool = False) -> None:
    """Raise `GraphError` unless `model` maps one float32 NCHW input to logits in standard, unquantized operators, as
    for inference; with `pairs` Q/DQ pairs are allowed, with `features` several outputs."""
    if not pairs:
        require_unquantized(model)
    for node in model.graph.node:  # first: where a converter left some, other things are missing too
        standard = node.domain in ("", "ai.onnx")
        if not standard or not onnx.defs.has(node.op_type):
            name = node.op_type if standard else f"{node.domain}.{node.op_type}"
            raise GraphError(
                f"node {node_label(node)}: operator {name} is not a standard ONNX operator",
                "export the network with standard operators alone",
            )
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1 or (len(model.graph.output) != 1 and not features):
        raise GraphError(
            f"the graph has inputs {[i.name for i in inputs]} and outputs {[o.name for o in model.graph.output]}",
            "a classifier with one input and one output is needed",
        )
    tensor = inputs[0].type.tensor_type
    rank = len(tensor.shape.dim) if tensor.HasField("shape") else 0
    if tensor.elem_type != onnx.TensorProto.FLOAT or rank != 4:
        kind = type_name(tensor.elem_type)
        raise GraphError(
            f"input {inputs[0].name!r} is {kind} of rank {rank}, not float32 NCHW",
            "export the network with a float32 input [batch, channels, height, width]",
        )
    require_inference(model)


def bytes_of(initializer: onnx.TensorProto) -> int:
    """The size of an initializer's values."""
    size = int(np.prod(initializer.dims, dtype=np.int64)) if initializer.dims else 1
    return size * int(helper.tensor_dtype_to_np_dtype(initializer.data_type).itemsize)
