"""ONNX files in and out: read, looked over, and onnx's errors translated in one place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import checker, helper, shape_inference, version_converter

from edgecnn.backends._onnxruntime import one_line
from edgecnn.backends._training_mode import require_inference
from edgecnn.errors import EdgecnnError, GraphError
from edgecnn.graph.onnx_graph import node_label

LARGEST_BYTES = 2**31 - 1  # of a protobuf message
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
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


def load_structure(path: Path) -> onnx.ModelProto:
    """The ONNX model in `path` without its external data; raises `GraphError` when it is missing or damaged."""
    with onnx_errors(path):
        return onnx.load(path, load_external_data=False)


def load_graph(path: Path) -> onnx.ModelProto:
    """The ONNX model in `path` with its external data; raises `GraphError` when it is missing, damaged or over 2 GB."""
    model = load_structure(path)
    external = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    for initializer in external:
        location = next((e.value for e in initializer.external_data if e.key == "location"), "")
        if not (path.parent / location).is_file():
            raise GraphError(
                f"{path}: the weights of {initializer.name!r} are in {location!r}, which is not beside it",
                "copy that file along with the graph, or export with the weights inside",
            )
    total = sum(bytes_of(i) for i in model.graph.initializer)
    if total > LARGEST_BYTES:
        raise GraphError(
            f"{path}: {total / 2**30:.1f} GiB of weights, more than the 2 GiB that one ONNX file can hold",
            "use a smaller variant of the network",
        )
    if external:
        with onnx_errors(path, "its external data cannot be read"):
            onnx.load_external_data_for_model(model, str(path.parent))
    return model


def external_files(path: Path) -> list[Path]:
    """The files beside a graph that hold weights of it; raises `GraphError` as `load_graph` does."""
    with onnx_errors(path):
        model = onnx.load(path, load_external_data=False)
    entries = [e for i in model.graph.initializer for e in i.external_data if e.key == "location"]
    return [path.parent / name for name in sorted({e.value for e in entries})]


def require_float_classifier(model: onnx.ModelProto) -> None:
    """Raise `GraphError` unless `model` maps one float32 NCHW input to logits in standard, unquantized operators, as
    for inference."""
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise GraphError(
            f"the graph has inputs {[i.name for i in inputs]} and outputs {[o.name for o in model.graph.output]}",
            "a classifier with one input and one output is needed",
        )
    tensor = inputs[0].type.tensor_type
    rank = len(tensor.shape.dim) if tensor.HasField("shape") else 0
    if tensor.elem_type != onnx.TensorProto.FLOAT or rank != 4:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise GraphError(
            f"input {inputs[0].name!r} is {kind} of rank {rank}, not float32 NCHW",
            "export the network with a float32 input [batch, channels, height, width]",
        )
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(
                f"node {node_label(node)}: operator {node.domain}.{node.op_type} is not a standard ONNX operator",
                "export the network with standard operators alone",
            )
        if node.op_type in _QUANTIZED:
            raise GraphError(f"node {node_label(node)}: the graph is already quantized", "give the float32 graph")
    require_inference(model)


def bytes_of(initializer: onnx.TensorProto) -> int:
    """The size of an initializer's values."""
    size = int(np.prod(initializer.dims, dtype=np.int64)) if initializer.dims else 1
    return size * int(helper.tensor_dtype_to_np_dtype(initializer.data_type).itemsize)
