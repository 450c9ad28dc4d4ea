"""How large the gradients of a training were, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class GradientNorms:
    """`norms[e][l]` is the Euclidean norm of the loss's gradient by the weights of `layers[l]` (in the order in which
    the network has them; no biases, no BN), before clipping, averaged over the steps of the epoch `epochs[e]`."""

    __pydantic_config__ = STRICT

    recipe: str
    model: str
    layers: tuple[str, ...]
    epochs: tuple[int, ...]
    norms: tuple[tuple[float, ...], ...]
