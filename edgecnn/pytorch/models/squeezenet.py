"""SqueezeNet.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016.

A fire module squeezes its input to a few maps with 1x1 convolutions and expands them again with 1x1 and 3x3 ones side
by side. The classifier is a 1x1 convolution followed by ReLU and global average pooling.

Keys and arithmetic are torchvision's; 1.1 is the authors' later revision (3x3 stem, earlier pooling), with 2.4 times
fewer multiply-adds at the same accuracy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._parts import initialize_he


class Fire(nn.Module):
    """1x1 down to `squeeze` maps, then `expand` maps each from 1x1 and 3x3 convolutions."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, 1, 1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class SqueezeNet(nn.Module):
    """A stem, eight fire modules among three poolings, a 1x1 classifier on 13x13 maps."""

    head_names = ("classifier.1",)

    def __init__(self, features: list[nn.Module], classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        head = nn.Conv2d(512, classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.5), head, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.stage_names = tuple(f"features.{n}" for n, f in enumerate(features) if isinstance(f, nn.Conv2d | Fire))
        initialize_he(self)
        nn.init.normal_(head.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)).flatten(1)
        return logits


def squeezenet1_0(classes: int = 1000) -> SqueezeNet:
    """The paper's network."""
    features = [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), _pool()]
    features += [Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), _pool()]
    features += [Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), _pool()]
    features += [Fire(512, 64, 256)]
    return SqueezeNet(features, classes)


def squeezenet1_1(classes: int = 1000) -> SqueezeNet:
    """The revision; 1.24 M parameters."""
    features = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), _pool()]
    features += [Fire(64, 16, 64), Fire(128, 16, 64), _pool()]
    features += [Fire(128, 32, 128), Fire(256, 32, 128), _pool()]
    features += [Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    return SqueezeNet(features, classes)
