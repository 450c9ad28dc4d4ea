"""What an export establishes about a graph."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class ExportFacts:
    """A network as a graph, for one image of `input_shape`; `params` leaves out branches that only training runs.

    `max_difference` is between the logits of PyTorch and of ONNX Runtime, as a share of max |logit|.
    """

    __pydantic_config__ = STRICT

    model: str
    input_shape: tuple[int, int, int]
    classes: int
    params: int
    nodes: int
    opset: int
    max_difference: float
    seconds: float
