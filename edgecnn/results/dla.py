"""What TensorRT reported of a build for a DLA core."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True, kw_only=True)
class DlaBuild:
    """Of the graph with `dla_graph_sha256`, in one precision: `dla_parts` of it run on the core `dla_core`, each one
    loadable, and `dla_gpu_layers` were left to the GPU, as TensorRT names them ("POOLING: /pool/GlobalAveragePool")."""

    __pydantic_config__ = STRICT

    dla_core: int
    dla_tensorrt: str
    dla_precision: str
    dla_graph_sha256: str
    dla_parts: int
    dla_gpu_layers: tuple[str, ...]
