"""How many entries an ONNX graph has, counted where they lie: of a file of nothing but empty ones a reader of protobuf
makes 100 times its size."""

from __future__ import annotations

import mmap
from pathlib import Path

from edgecnn.artifact.external import require_size
from edgecnn.errors import ArtifactError
from edgecnn.limits import GRAPH_ENTRIES, GRAPH_NODES, require_regular

_HINT = "classifiers have some thousand nodes"
# The messages within each message, by the numbers of their fields in onnx.proto; "plain" ones hold no others.
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "plain", 14: "plain", 20: "TrainingInfo", 25: "Function", 26: "DeviceConfiguration"},
    "TrainingInfo": {1: "Graph", 2: "Graph", 3: "plain", 4: "plain"},
    "Function": {7: "Node", 9: "plain", 11: "Attribute", 12: "ValueInfo", 14: "plain"},
    "Graph": {1: "Node", 5: "Tensor", 11: "ValueInfo", 12: "ValueInfo", 13: "ValueInfo", 14: "TensorAnnotation",
              15: "SparseTensor", 16: "plain"},
    "Node": {5: "Attribute", 9: "plain", 10: "NodeDeviceConfiguration"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 14: "Type", 15: "Type", 22: "SparseTensor",
                  23: "SparseTensor"},
    "Tensor": {3: "plain", 13: "plain", 16: "plain"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "TensorAnnotation": {2: "plain"},
    "ValueInfo": {2: "Type", 4: "plain"},
    "Type": {1: "Type.Tensor", 4: "Type.Sequence", 5: "Type.Map", 7: "plain", 8: "Type.Tensor", 9: "Type.Sequence"},
    "Type.Tensor": {2: "TensorShape"},
    "Type.Sequence": {1: "Type"},
    "Type.Map": {2: "Type"},
    "TensorShape": {1: "plain"},
    "DeviceConfiguration": {},
    "NodeDeviceConfiguration": {2: "ShardingSpec"},
    "ShardingSpec": {3: "plain", 4: "ShardedDim"},
    "ShardedDim": {2: "plain"},
    "plain": {},
}  # fmt: skip


def require_few_entries(path: Path) -> None:
    """Raise `ArtifactError` for a graph of more than `GRAPH_BYTES`, `GRAPH_NODES` nodes, or `GRAPH_ENTRIES` fields, and
    `OSError` for one that cannot be read. What is no protobuf message is left to its reader."""
    size = require_regular(path)
    require_size(path)
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        nodes, entries = _count(content)
    if nodes > GRAPH_NODES:
        raise ArtifactError(f"{path}: its nodes are more than {GRAPH_NODES}", _HINT)
    if entries > GRAPH_ENTRIES:
        raise ArtifactError(f"{path}: its nodes and tensors have more than {GRAPH_ENTRIES} entries", _HINT)


def _count(content: mmap.mmap) -> tuple[int, int]:
    """(nodes, fields), until there are too many of either; a message that ends within a field ends there."""
    nodes, entries = 0, 0
    left = [(0, len(content), "Model")]
    while left and nodes <= GRAPH_NODES and entries <= GRAPH_ENTRIES:
        at, end, kind = left.pop()
        within = MESSAGES[kind]
        while at < end and nodes <= GRAPH_NODES and entries <= GRAPH_ENTRIES:
            entries += 1
            tag, at = _number(content, at, end)
            wire = tag & 7
            if wire == 2:
                length, at = _number(content, at, end)
                if inner := within.get(tag >> 3):
                    left.append((at, min(at + length, end), inner))
                    nodes += inner == "Node"
                at += length
            elif wire == 0:
                _, at = _number(content, at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            elif wire > 5:
                break
    return nodes, entries


def _number(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, and where it ends; one without an end goes to the end."""
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, end
