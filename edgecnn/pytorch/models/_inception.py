"""What Inception-v4 and Inception-ResNet-v2 share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Size = int | tuple[int, int]


class ConvBN(nn.Module):
    """Convolution, BN, ReLU; unlike torch's habit without padding unless `padding` is given."""

    def __init__(self, inputs: int, outputs: int, size: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


def same(inputs: int, outputs: int, height: int, width: int) -> ConvBN:
    """An odd-sized `ConvBN` that keeps the size of the map."""
    return ConvBN(inputs, outputs, (height, width), padding=(height // 2, width // 2))


def pooled(inputs: int, outputs: int) -> nn.Sequential:
    """The pooling branch of every module: a 3x3 average, then 1x1."""
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvBN(inputs, outputs, 1))


class Branches(nn.Module):
    """Named branches side by side, their maps concatenated in the order given."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], 1)
