"""DenseNet: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", 2016.

Within a block every layer sees the outputs of all earlier ones, joined, and adds `growth` maps of its own. Each layer
is BN-ReLU-1x1 to 4 * growth maps, BN-ReLU-3x3 (the B of DenseNet-BC); between blocks a 1x1 halves the maps (the C).
Keys and arithmetic are torchvision's; the CIFAR network has the same keys, but for the stem's BN, which it lacks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._parts import initialize_he


class DenseLayer(nn.Module):
    """`growth` new maps from all maps so far, appended to them."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu1(self.norm1(x)))
        y = self.conv2(self.relu2(self.norm2(y)))
        return torch.cat([x, y], 1)


def _dense_block(inputs: int, growth: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict((f"denselayer{n + 1}", DenseLayer(inputs + n * growth, growth)) for n in range(count))
    )


def _transition(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(inputs),
            relu=nn.ReLU(),
            conv=nn.Conv2d(inputs, inputs // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


class DenseNet(nn.Module):
    """[N, 3, 224, 224] -> stem 56x56 -> four dense blocks of 56, 28, 14 and 7 squared -> average -> classes.

    With `small` for [N, 3, 32, 32]: the stem is one 3x3 convolution, and the blocks stand at 32, 16 and 8 squared.
    """

    head_names = ("classifier",)

    def __init__(self, growth: int, blocks: Sequence[int], stem: int, classes: int, small: bool = False) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if small:
            layers["conv0"] = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        else:
            layers["conv0"] = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
            layers["norm0"] = nn.BatchNorm2d(stem)
            layers["relu0"] = nn.ReLU()
            layers["pool0"] = nn.MaxPool2d(3, 2, 1)
        channels = stem
        for number, count in enumerate(blocks, start=1):
            layers[f"denseblock{number}"] = _dense_block(channels, growth, count)
            channels += count * growth
            if number < len(blocks):
                layers[f"transition{number}"] = _transition(channels)
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)
        layers["relu5"] = nn.ReLU()
        self.features = nn.Sequential(layers)
        with_parameters = ("conv", "norm", "denseblock", "transition")
        self.stage_names = tuple(f"features.{name}" for name in layers if name.startswith(with_parameters))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def densenet121(classes: int = 1000) -> DenseNet:
    """Growth 32; 8.0 M parameters."""
    return DenseNet(32, (6, 12, 24, 16), 64, classes)


def densenet161(classes: int = 1000) -> DenseNet:
    """Growth 48 on a wider stem; 28.7 M parameters."""
    return DenseNet(48, (6, 12, 36, 24), 96, classes)


def densenet169(classes: int = 1000) -> DenseNet:
    """Growth 32; 14.1 M parameters."""
    return DenseNet(32, (6, 12, 32, 32), 64, classes)


def densenet201(classes: int = 1000) -> DenseNet:
    """Growth 32; 20.0 M parameters."""
    return DenseNet(32, (6, 12, 48, 32), 64, classes)


def densenet_bc100_12_cifar(classes: int = 10) -> DenseNet:
    """100 layers with growth 12: 0.8 M parameters and 4.51 % error on CIFAR-10 with augmentation."""
    return DenseNet(12, (16, 16, 16), 24, classes, small=True)
