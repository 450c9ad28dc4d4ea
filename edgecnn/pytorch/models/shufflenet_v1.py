"""ShuffleNet v1: Zhang, Zhou, Lin, Sun, "ShuffleNet: an extremely efficient convolutional neural network for mobile
devices", 2017.

In a small residual network the 1x1 convolutions are the cost; here they are grouped. Grouped layers in a row would
never exchange anything between groups, so the channels are shuffled after the first: channel i of every group goes to
a different group. A unit is 1x1 grouped, shuffle, depthwise 3x3 without ReLU, 1x1 grouped, and the shortcut is added;
a striding unit instead concatenates the 3x3 average of its input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._parts import ChannelShuffle, initialize_he


class ShuffleUnit(nn.Module):
    """`inputs` -> `outputs` channels; it strides by 2 exactly where these differ.

    The inner width is a quarter of `outputs`. `first_groups` is 1 in the very first unit, whose 24 input channels are
    too few to be grouped.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, first_groups: int) -> None:
        super().__init__()
        self.strides = inputs != outputs
        inner, made = outputs // 4, outputs - inputs if self.strides else outputs
        self.conv1 = nn.Conv2d(inputs, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.shuffle = ChannelShuffle(inner, groups)
        self.conv2 = nn.Conv2d(inner, inner, 3, 2 if self.strides else 1, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.shortcut = nn.AvgPool2d(3, 2, 1) if self.strides else None
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        y = self.bn2(self.conv2(y))
        y = self.bn3(self.conv3(y))
        y = x + y if self.shortcut is None else torch.cat([self.shortcut(x), y], 1)
        out: Tensor = self.relu2(y)
        return out


class ShuffleNetV1(nn.Module):
    """[N, 3, 224, 224] -> 24 maps 56x56 -> stages of 4, 8 and 4 units at 28, 14 and 7 squared -> average -> classes."""

    head_names = ("fc",)
    stage_names = ("conv1", "bn1", "stage2", "stage3", "stage4")

    def __init__(self, groups: int, width: int, classes: int) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
            first = ShuffleUnit(inputs, outputs, groups, 1 if inputs == 24 else groups)
            return nn.Sequential(first, *(ShuffleUnit(outputs, outputs, groups, groups) for _ in range(units - 1)))

        self.conv1 = nn.Conv2d(3, 24, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2 = stage(24, width, 4)
        self.stage3 = stage(width, 2 * width, 8)
        self.stage4 = stage(2 * width, 4 * width, 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.stage4(self.stage3(self.stage2(x)))
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


def shufflenet_v1_g3(classes: int = 1000) -> ShuffleNetV1:
    """Three groups, width 1x: 140 M multiply-adds and 32.6 % top-1 error in the paper."""
    return ShuffleNetV1(3, 240, classes)
