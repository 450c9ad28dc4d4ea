"""Write an ONNX file one initializer after the other, and run it from where it lies, without copying the weights.

protobuf would need the message (one copy of the weights) and its serialization (another) in memory at once; ONNX
Runtime needs the parsed file and its own tensors. For VGG-19 each of these copies is 0.6 GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edgecnn.backends._onnxruntime import open_session
from edgecnn.errors import ModelError

SMALL_BYTES = 1024  # shapes and bounds, which ONNX Runtime reads before it maps anything
LARGEST_BYTES = 2**31 - 1  # of a protobuf message
_GRAPH_FIELD, _INITIALIZER_FIELD, _RAW_DATA_FIELD = 7, 5, 9  # of ModelProto, GraphProto, TensorProto in onnx.proto


def write_onnx(path: Path, model: onnx.ModelProto, initializers: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    """Write `model`, whose graph has no initializers yet, with `initializers`; raises `ModelError` above 2 GiB.

    Returns the position of each initializer's values in the file.
    """
    heads = {name: _tensor_head(name, array) for name, array in initializers.items()}
    sizes = {name: len(head) + initializers[name].nbytes for name, head in heads.items()}
    graph = model.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    tags = {name: _length_tag(_INITIALIZER_FIELD, size) for name, size in sizes.items()}
    graph_bytes = len(graph) + sum(sizes.values()) + sum(map(len, tags.values()))
    if graph_bytes + 1024 > LARGEST_BYTES:
        raise ModelError(
            f"{path}: {graph_bytes / 1e9:.2f} GB of weights, an ONNX file holds at most {LARGEST_BYTES / 1e9:.2f} GB",
            "take a smaller variant of the network: `edgecnn models` lists their parameters",
        )
    positions = {}
    with path.open("wb") as file:
        file.write(rest.SerializeToString())
        file.write(_length_tag(_GRAPH_FIELD, graph_bytes))
        file.write(graph)
        for name, array in initializers.items():
            file.write(tags[name])
            file.write(heads[name])
            file.flush()
            positions[name] = file.tell()
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return positions


def session_on(
    path: Path, model: onnx.ModelProto, initializers: Mapping[str, npt.NDArray[Any]], positions: Mapping[str, int]
) -> onnxruntime.InferenceSession:
    """A session on the file that `write_onnx` made of the other arguments, whose weights are mapped from that file."""
    mapped = onnx.ModelProto()
    mapped.CopyFrom(model)
    for name, array in initializers.items():
        if array.nbytes < SMALL_BYTES:
            mapped.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            continue
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = mapped.graph.initializer.add(name=name, dims=array.shape, data_type=kind)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", positions[name]), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
    config = {
        "session.disable_prepacking": "1",  # another copy of the weights
        "session.model_external_initializers_file_folder_path": str(path.parent),
    }
    return open_session(mapped, config=config)


def _tensor_head(name: str, array: npt.NDArray[Any]) -> bytes:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    head = onnx.TensorProto(dims=array.shape, data_type=kind, name=name)
    return bytes(head.SerializeToString()) + _length_tag(_RAW_DATA_FIELD, array.nbytes)


def _length_tag(field: int, length: int) -> bytes:
    """Key and length of a length-delimited protobuf field (wire type 2)."""
    encoded = bytearray()
    for value in (field << 3 | 2, length):
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
    return bytes(encoded)
