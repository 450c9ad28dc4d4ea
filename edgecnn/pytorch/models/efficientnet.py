"""EfficientNet: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019.

B0 is MobileNetV2's block with squeeze-and-excitation and SiLU (swish), found by search; its larger siblings scale
depth, width and resolution together. SiLU and the SE gates have long-tailed ranges: a hard case for INT8. While
training, whole blocks are dropped at random (stochastic depth), the later the oftener. Keys and arithmetic are
torchvision's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._parts import SqueezeExcitation, conv_bn, initialize_he

STOCHASTIC_DEPTH = 0.2  # chance of dropping the block after the last; falls linearly to 0 at the first


class StochasticDepth(nn.Module):
    """While training, zero a block's output for each image with probability `p`, and scale the others up."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        kept = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)


class MBConv(nn.Module):
    """1x1 up, depthwise, squeeze-and-excitation to a quarter of the block's input, linear 1x1 down."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, drop: float) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        width = inputs * expansion
        self.block = nn.Sequential(
            *([conv_bn(inputs, width, 1, activation=nn.SiLU)] if expansion != 1 else []),
            conv_bn(width, width, kernel, stride, groups=width, activation=nn.SiLU),
            SqueezeExcitation(width, inputs // 4, activation=nn.SiLU),
            conv_bn(width, outputs, 1, activation=None),
        )
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + self.stochastic_depth(y) if self.residual else y


class EfficientNet(nn.Module):
    """[N, 3, 224, 224] -> 32 maps 112x112 -> 16 blocks in seven stages down to 7x7 -> 1280 averages -> classes."""

    head_names = ("classifier.1",)
    stage_names = tuple(f"features.{n}" for n in range(9))

    def __init__(self, classes: int) -> None:
        super().__init__()
        rows = (  # expansion, kernel, stride, outputs, blocks: table 1 of the paper
            *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)),
            *((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
        )
        total = sum(row[-1] for row in rows)
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, activation=nn.SiLU)]
        inputs, done = 32, 0
        for expansion, kernel, stride, outputs, count in rows:
            stage: list[nn.Module] = []
            for number in range(count):
                drop = STOCHASTIC_DEPTH * done / total
                stage.append(MBConv(inputs, outputs, kernel, stride if number == 0 else 1, expansion, drop))
                inputs, done = outputs, done + 1
            layers.append(nn.Sequential(*stage))
        layers.append(conv_bn(inputs, 1280, 1, activation=nn.SiLU))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def efficientnet_b0(classes: int = 1000) -> EfficientNet:
    """5.3 M parameters, 386 M multiply-adds; 77.1 % top-1 in the paper."""
    return EfficientNet(classes)
