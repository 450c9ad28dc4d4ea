"""The one place where the bytes of an ONNX graph become a message: what would take the machine is refused before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.graph_size import require_few_entries

if TYPE_CHECKING:
    import onnx


def read_structure(path: Path) -> onnx.ModelProto:
    """The ONNX model in `path` without its external data; raises `ArtifactError` for one of too many nodes or bytes,
    `OSError`, and protobuf's `DecodeError`."""
    import onnx

    require_few_entries(path)
    return onnx.load(path, load_external_data=False)
