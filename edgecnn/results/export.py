"""What an export establishes about a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgecnn.records import STRICT


@dataclass(frozen=True)
class ExportFacts:
    """A network as a graph, for one image of `input_shape`; `params` leaves out branches that only training runs.

    `max_difference` is between the logits of PyTorch and of ONNX Runtime, as a share of max |logit|. `changes` say that
    torch.onnx has exported it, why, and how its graph was brought to the contract. Of a features graph `classes` is 0,
    `features` are the shapes of its outputs for one image, and the difference is a share of each output's largest.
    """

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True

    model: str
    input_shape: tuple[int, int, int]
    classes: int
    params: int
    nodes: int
    opset: int
    max_difference: float
    changes: tuple[str, ...] = ()
    features: dict[str, tuple[int, ...]] = field(default_factory=dict)
