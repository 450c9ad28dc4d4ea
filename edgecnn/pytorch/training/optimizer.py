"""What updates the weights: initialization, optimizer, moving average."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim

from edgecnn.recipe.schema import TrainSettings


def initialize(network: nn.Module, settings: TrainSettings) -> None:
    """Replace the network's own initialization where the recipe asks for He's (2015, normal, fan out) or Xavier's
    (Glorot and Bengio 2010, uniform), and its dropout probability where that is given."""
    for layer in network.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d) and settings.dropout is not None:
            layer.p = settings.dropout
        if settings.init == "default" or not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if settings.init == "he":
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at `share` times the learning rate."""

    params: list[nn.Parameter]
    share: float = 1.0


def make_optimizer(groups: Iterable[ParameterGroup], settings: TrainSettings) -> optim.Optimizer:
    """SGD with momentum or AdamW over parameter groups; each group's `share` scales its learning rate."""
    made = [{"params": group.params, "share": group.share} for group in groups]
    if settings.optimizer == "adamw":
        return optim.AdamW(made, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    return optim.SGD(
        made,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


class MovingAverage:
    """An exponential moving average of weights and BN statistics, with the usual correction of the early steps
    (`min(decay, (1 + n) / (10 + n))`)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def update(self, network: nn.Module) -> None:
        """Take in the weights after one step; counters are copied."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = network.state_dict()
        floating = [name for name, tensor in self.weights.items() if tensor.is_floating_point()]
        mine: list[Tensor] = [self.weights[n] for n in floating]
        torch._foreach_lerp_(mine, [now[n].detach() for n in floating], 1 - keep)
        for name, tensor in self.weights.items():
            if not tensor.is_floating_point():
                tensor.copy_(now[name])
