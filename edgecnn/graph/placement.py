"""Where Q/DQ pairs stand in a graph, for each target (NVIDIA's explicit quantization rules; ONNX Runtime's kernels)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Style = Literal["tensorrt", "cpu"]


@dataclass(frozen=True)
class Edge:
    """Input `index` of the node named `node` (names are unique in a prepared graph); "" is the graph's output."""

    node: str
    index: int


@dataclass(frozen=True)
class QuantizedTensor:
    """One Q/DQ pair on `tensor`, read by `edges`; all tensors of one `group` share one scale."""

    tensor: str
    edges: tuple[Edge, ...]
    group: str


@dataclass(frozen=True)
class QuantizedWeight:
    """An initialiser that is input `index` of `node`; `axis` is its channel axis, None for one scale."""

    initializer: str
    node: str
    index: int
    axis: int | None


@dataclass(frozen=True)
class Placement:
    """What is quantised, and between which nodes."""

    style: Style
    activations: tuple[QuantizedTensor, ...]
    weights: tuple[QuantizedWeight, ...]
