"""ShuffleNet V2.

Ma, Zhang, Zheng, Sun, "ShuffleNet V2: practical guidelines for efficient CNN architecture design", 2018.

Multiply-adds do not tell speed; memory traffic does. So: equal widths in and out, no groups in the 1x1 convolutions,
no additions. Each unit splits its channels, leaves one half alone, works on the other, joins them and shuffles, so that
the halves meet in the next unit. Keys and arithmetic are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._parts import ChannelShuffle, initialize_he


class ShuffleUnit(nn.Module):
    """1x1, depthwise 3x3, 1x1 on one half of the channels; at stride 2 on all of them, in both branches."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.split = stride == 1
        taken = inputs // 2 if self.split else inputs
        self.branch1 = nn.Sequential()
        if not self.split:
            self.branch1 = nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, half, 1, bias=False),
                nn.BatchNorm2d(half),
                nn.ReLU(),
            )
        self.branch2 = nn.Sequential(
            nn.Conv2d(taken, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        self.shuffle = ChannelShuffle(outputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            left, right = x.chunk(2, 1)
            joined = torch.cat([left, self.branch2(right)], 1)
        else:
            joined = torch.cat([self.branch1(x), self.branch2(x)], 1)
        out: Tensor = self.shuffle(joined)
        return out


class ShuffleNetV2(nn.Module):
    """[N, 3, 224, 224] -> stem 24 maps 56x56 -> three stages of 28, 14 and 7 squared -> 1024 averages -> classes."""

    head_names = ("fc",)
    stage_names = ("conv1", "stage2", "stage3", "stage4", "conv5")

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)

        def stage(inputs: int, outputs: int, count: int) -> nn.Sequential:
            rest = (ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1))
            return nn.Sequential(ShuffleUnit(inputs, outputs, 2), *rest)

        self.stage2 = stage(24, widths[0], 4)
        self.stage3 = stage(widths[0], widths[1], 8)
        self.stage4 = stage(widths[1], widths[2], 4)
        self.conv5 = nn.Sequential(nn.Conv2d(widths[2], 1024, 1, bias=False), nn.BatchNorm2d(1024), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1024, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def shufflenet_v2_x0_5(classes: int = 1000) -> ShuffleNetV2:
    """41 M multiply-adds."""
    return ShuffleNetV2((48, 96, 192), classes)


def shufflenet_v2_x1_0(classes: int = 1000) -> ShuffleNetV2:
    """146 M multiply-adds."""
    return ShuffleNetV2((116, 232, 464), classes)
