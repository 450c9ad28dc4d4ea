"""What importing a graph from elsewhere found and changed."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True, kw_only=True)
class ImportFacts:
    """`input_shape` is (channels, height, width), `batch` the frozen batch (None: dynamic), `max_difference` the
    largest difference from the original's outputs as a share of the largest of them, `warnings` what later steps will
    refuse or do not do as one would think. `int8_share_pct` is of the multiply-adds, of a graph that came quantized."""

    __pydantic_config__ = STRICT

    input_shape: tuple[int, int, int]
    classes: int
    batch: int | None
    params: int
    nodes: int
    opset: int
    max_difference: float
    changes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    int8_share_pct: float | None = None
