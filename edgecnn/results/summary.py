"""What a network is made of, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecnn.records import STRICT


@dataclass(frozen=True)
class LayerSummary:
    """One layer for one image. `output_shape` is without the batch; `weights` are `params` without biases and
    BN parameters; `activation_bytes` is the float32 output, 0 where it shares its input's memory; `receptive_field`
    are the rows and columns of the image that one value sees, padding included."""

    __pydantic_config__ = STRICT

    name: str
    type: str
    output_shape: tuple[int, ...]
    params: int
    weights: int
    macs: int
    activation_bytes: int
    receptive_field: tuple[int, ...] = ()


@dataclass(frozen=True)
class FeatureMap:
    """What `edgecnn export --features` can give: the output of `layer` (of `pool`, what this layer reads, averaged over
    its positions), of one image. Neighbors are `stride` pixels apart; 0 where there are no positions."""

    __pydantic_config__ = STRICT

    name: str
    stage: str
    layer: str
    shape: tuple[int, ...]
    stride: int
    receptive_field: tuple[int, ...]


@dataclass(frozen=True)
class NetworkSummary:
    """A network for one image of `input_shape`."""

    __pydantic_config__ = STRICT
    DERIVED: ClassVar[tuple[str, ...]] = ("params", "weights", "macs", "activation_bytes")

    name: str
    classes: int
    input_shape: tuple[int, int, int]
    layers: tuple[LayerSummary, ...]
    auxiliary: tuple[LayerSummary, ...]  # layers that only training runs; in no total
    stages: tuple[str, ...]  # what `train = "last-N"` counts from the end
    head: tuple[str, ...]  # what another number of classes replaces
    features: tuple[FeatureMap, ...]  # by name: C<k>, the last map of stride 2^k, the stages, and pool
    peak_activation_bytes: int  # the most that is alive at once, input included, when each output is freed after use
    weight_layers: int  # convolutions and fully connected layers on the longest way from the image to the logits

    @property
    def params(self) -> int:
        """Weights, biases, and the scales and shifts of BN."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        """Parameters of more than one dimension: no biases, no BN."""
        return sum(layer.weights for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """All outputs together; an engine that reuses buffers needs `peak_activation_bytes`."""
        return sum(layer.activation_bytes for layer in self.layers)
