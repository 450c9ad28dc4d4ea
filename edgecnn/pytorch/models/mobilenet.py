"""MobileNets.

V1: Howard et al., "MobileNets: efficient convolutional neural networks for mobile vision applications", 2017;
V2: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018;
V3: Howard et al., "Searching for MobileNetV3", 2019.

V1 splits each convolution into a depthwise 3x3 and a 1x1: k*k + width multiply-adds per output where k*k * width were.
V2 turns the bottleneck inside out: a thin linear path carries the residual, and each block widens it, filters depthwise
and projects back without an activation, which would destroy information in few channels. V3 tunes V2 by search and adds
squeeze-and-excitation and hard-swish.

Keys and arithmetic are timm's `mobilenetv1_100` for V1 (ReLU6, where the paper has ReLU), torchvision's for V2 and V3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import SqueezeExcitation, conv_bn, initialize_he, rounded_channels


class SeparableConv(nn.Module):
    """Depthwise 3x3, then 1x1, each with BN and ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.act1 = nn.ReLU6()
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_dw(x)))
        out: Tensor = self.act2(self.bn2(self.conv_pw(x)))
        return out


class MobileNetV1(nn.Module):
    """[N, 3, 224, 224] -> 32, 64 maps 112x112 -> 128 of 56x56 -> 256 of 28x28 -> 512 of 14x14 -> 1024 of 7x7."""

    head_names = ("classifier",)
    stage_names = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4")

    def __init__(self, multiplier: float, classes: int) -> None:
        super().__init__()
        stem, *widths = (rounded_channels(multiplier * w) for w in (32, 64, 128, 256, 512, 1024))
        self.conv_stem = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU6()
        stages: list[nn.Module] = []
        inputs = stem
        for width, count, stride in zip(widths, (1, 2, 2, 6, 2), (1, 2, 2, 2, 2), strict=True):
            rest = (SeparableConv(width, width, 1) for _ in range(count - 1))
            stages.append(nn.Sequential(SeparableConv(inputs, width, stride), *rest))
            inputs = width
        self.blocks = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        logits: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """V2's block: 1x1 up, depthwise 3x3, linear 1x1 down; the input is added where the shape allows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        width = inputs * expansion
        self.conv = nn.Sequential(
            *([conv_bn(inputs, width, 1, activation=nn.ReLU6)] if expansion != 1 else []),
            conv_bn(width, width, 3, stride, groups=width, activation=nn.ReLU6),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """[N, 3, 224, 224] -> 32 maps 112x112 -> 17 blocks down to 320 maps 7x7 -> 1280 averages -> classes."""

    head_names = ("classifier.1",)
    stage_names = tuple(f"features.{n}" for n in range(19))

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, activation=nn.ReLU6)]
        inputs = 32
        for expansion, outputs, count, stride in (  # table 2 of the paper
            *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
            *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
        ):
            for number in range(count):
                layers.append(InvertedResidual(inputs, outputs, stride if number == 0 else 1, expansion))
                inputs = outputs
        layers.append(conv_bn(inputs, 1280, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


@dataclass(frozen=True)
class Row:
    """One row of V3's tables 1 and 2; `hard` chooses hard-swish over ReLU."""

    kernel: int
    width: int
    outputs: int
    squeeze: bool
    hard: bool
    stride: int


class BlockV3(nn.Module):
    """V2's block with an optional squeeze-and-excitation before the projection, and V3's BN."""

    def __init__(self, inputs: int, row: Row, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.residual = row.stride == 1 and inputs == row.outputs
        activation: type[nn.Module] = nn.Hardswish if row.hard else nn.ReLU
        layers: list[nn.Module] = []
        if row.width != inputs:
            layers.append(conv_bn(inputs, row.width, 1, activation=activation, norm=norm))
        layers.append(
            conv_bn(row.width, row.width, row.kernel, row.stride, groups=row.width, activation=activation, norm=norm)
        )
        if row.squeeze:
            layers.append(SqueezeExcitation(row.width, rounded_channels(row.width // 4), nn.ReLU, nn.Hardsigmoid))
        layers.append(conv_bn(row.width, row.outputs, 1, activation=None, norm=norm))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3(nn.Module):
    """[N, 3, 224, 224] -> 16 maps 112x112 -> the rows' blocks down to 7x7 -> averages -> a hidden layer -> classes."""

    head_names = ("classifier.3",)

    def __init__(self, rows: Sequence[Row], hidden: int, classes: int) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
        layers: list[nn.Module] = [conv_bn(3, 16, 3, 2, activation=nn.Hardswish, norm=norm)]
        inputs = 16
        for row in rows:
            layers.append(BlockV3(inputs, row, norm))
            inputs = row.outputs
        layers.append(conv_bn(inputs, 6 * inputs, 1, activation=nn.Hardswish, norm=norm))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * inputs, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, classes)
        )
        self.stage_names = (*(f"features.{n}" for n in range(len(layers))), "classifier.0")
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def mobilenet_v1(classes: int = 1000) -> MobileNetV1:
    """Full width; 4.2 M parameters, 569 M multiply-adds; 70.6 % top-1 in the paper."""
    return MobileNetV1(1.0, classes)


def mobilenet_v1_x0_75(classes: int = 1000) -> MobileNetV1:
    """Three quarters of the width; 68.4 % top-1 in the paper."""
    return MobileNetV1(0.75, classes)


def mobilenet_v1_x0_5(classes: int = 1000) -> MobileNetV1:
    """Half the width; 63.7 % top-1 in the paper."""
    return MobileNetV1(0.5, classes)


def mobilenet_v1_x0_25(classes: int = 1000) -> MobileNetV1:
    """A quarter of the width; 50.6 % top-1 in the paper."""
    return MobileNetV1(0.25, classes)


def mobilenet_v2(classes: int = 1000) -> MobileNetV2:
    """3.5 M parameters, 301 M multiply-adds."""
    return MobileNetV2(classes)


def mobilenet_v3_small(classes: int = 1000) -> MobileNetV3:
    """Table 2 of the paper; 57 M multiply-adds."""
    rows = (
        Row(3, 16, 16, True, False, 2),
        Row(3, 72, 24, False, False, 2),
        Row(3, 88, 24, False, False, 1),
        Row(5, 96, 40, True, True, 2),
        Row(5, 240, 40, True, True, 1),
        Row(5, 240, 40, True, True, 1),
        Row(5, 120, 48, True, True, 1),
        Row(5, 144, 48, True, True, 1),
        Row(5, 288, 96, True, True, 2),
        Row(5, 576, 96, True, True, 1),
        Row(5, 576, 96, True, True, 1),
    )
    return MobileNetV3(rows, 1024, classes)


def mobilenet_v3_large(classes: int = 1000) -> MobileNetV3:
    """Table 1 of the paper; 217 M multiply-adds."""
    rows = (
        Row(3, 16, 16, False, False, 1),
        Row(3, 64, 24, False, False, 2),
        Row(3, 72, 24, False, False, 1),
        Row(5, 72, 40, True, False, 2),
        Row(5, 120, 40, True, False, 1),
        Row(5, 120, 40, True, False, 1),
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 480, 112, True, True, 1),
        Row(3, 672, 112, True, True, 1),
        Row(5, 672, 160, True, True, 2),
        Row(5, 960, 160, True, True, 1),
        Row(5, 960, 160, True, True, 1),
    )
    return MobileNetV3(rows, 1280, classes)
