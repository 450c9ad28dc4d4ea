"""What several families share: initialisation and the pooling before a classifier."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional as F


def initialise_he(model: nn.Module, classifier_std: float = 0.01, mode: str = "fan_out") -> None:
    """He et al. 2015: normal weights of variance 2 / fan for convolutions; BN starts as the identity; classifier
    weights are normal with `classifier_std`, biases zero. Modules without a child are visited in order, so that one
    seed gives one network."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")  # type: ignore[arg-type]
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=classifier_std)
            nn.init.zeros_(layer.bias)


def initialise_xavier(layers: Iterable[nn.Module]) -> None:
    """Glorot and Bengio 2010, uniform; biases zero."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class GridPool(nn.Module):
    """Average the feature map to `size` x `size` cells; a map that already has them passes untouched, so that a graph
    exported at the native resolution carries no pooling of one cell."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] == self.size and x.shape[-1] == self.size:
            return x
        return F.adaptive_avg_pool2d(x, self.size)
