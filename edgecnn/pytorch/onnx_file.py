"""Write an ONNX file one initialiser after the other, so that the weights are never copied whole.

protobuf would need the message (one copy of the weights) and its serialisation (another) in memory at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.errors import ModelError

LARGEST_BYTES = 2**31 - 1  # of a protobuf message
_GRAPH_FIELD, _INITIALIZER_FIELD, _RAW_DATA_FIELD = 7, 5, 9  # of ModelProto, GraphProto, TensorProto in onnx.proto


def write_onnx(path: Path, model: onnx.ModelProto, initializers: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write `model`, whose graph has no initialisers yet, with `initializers`; raises `ModelError` above 2 GiB."""
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
    with path.open("wb") as file:
        file.write(rest.SerializeToString())
        file.write(_length_tag(_GRAPH_FIELD, graph_bytes))
        file.write(graph)
        for name, array in initializers.items():
            file.write(tags[name])
            file.write(heads[name])
            np.ascontiguousarray(array).tofile(file)


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
