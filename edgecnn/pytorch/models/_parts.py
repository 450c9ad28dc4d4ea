"""What several families share: initialization, and the small modules between convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


def initialize_he(
    model: nn.Module, classifier_std: float = 0.01, mode: Literal["fan_in", "fan_out"] = "fan_out"
) -> None:
    """He et al. 2015: normal weights of variance 2 / fan for convolutions; BN starts as the identity; classifier
    weights are normal with `classifier_std`, biases zero. Layers are visited in order, so that a seed decides all.

    Fan-out keeps the size of gradients, fan-in that of activations, which matters where no BN mends them.
    """
    if next(model.parameters()).is_meta:  # shapes alone
        return
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=classifier_std)
            nn.init.zeros_(layer.bias)


def initialize_xavier(layers: Iterable[nn.Module]) -> None:
    """Glorot and Bengio 2010, uniform; biases zero."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, BN, and an activation unless that is None: keys `0`, `1`."""
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm(outputs)]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


def rounded_channels(channels: float) -> int:
    """The multiple of 8 nearest to a scaled width, but never more than a tenth below it (MobileNetV2, footnote)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


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


def local_response_norm() -> nn.LocalResponseNorm:
    """AlexNet's normalization across channels: x / (2 + 1e-4 * sum of x^2 over 5 neighbors)^0.75.

    torch and ONNX divide their alpha by the number of neighbors, so it is 5 times the paper's.
    """
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


class ChannelShuffle(nn.Module):
    """Deal the channels of `groups` groups out in turn: (group, position) becomes (position, group)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.channels, self.groups = channels, groups

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = x.reshape(-1, self.groups, self.channels // self.groups, height, width)
        return x.transpose(1, 2).reshape(-1, self.channels, height, width)


class SqueezeExcitation(nn.Module):
    """Hu et al. 2017: global average, two 1x1 convolutions through a narrow layer, a gate; scale the channels by it."""

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return x * scale
