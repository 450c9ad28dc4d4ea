"""Inception-ResNet-v2: Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the impact of residual
connections on learning", 2016.

Inception modules become the residual of a ResNet: the branches are concatenated, brought back to the width of the
input by a linear 1x1 convolution (with a bias, without BN), scaled down, and added. The scaling (0.17, 0.10 and 0.20
for the three sizes) is what keeps so many residuals from drowning the signal early in training.

Keys and arithmetic are timm's (ported from the authors' TensorFlow weights), which differ from the paper's figures:
the stem is that of Inception-v3, module 5b widens it to 320 maps, and the modules are 10, 20 and 10 with the last one
unscaled and without its ReLU. BN has epsilon 1e-3; no dropout in the graph (the paper keeps 0.8).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._inception import Branches, ConvBN, pooled, same
from edgecnn.pytorch.models._parts import initialize_he


class Residual(nn.Module):
    """ReLU(x + scale * conv1x1(branches(x))); `last` leaves the ReLU out."""

    def __init__(self, scale: float, channels: int, inner: int, last: bool = False, **branches: nn.Module) -> None:
        super().__init__()
        self.scale = scale
        self.branch_names = tuple(branches)
        for name, branch in branches.items():
            self.add_module(name, branch)
        self.conv2d = nn.Conv2d(inner, channels, 1)
        self.act = None if last else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.get_submodule(name)(x) for name in self.branch_names], 1)
        y = self.conv2d(y) * self.scale + x
        out: Tensor = y if self.act is None else self.act(y)
        return out


def _mixed_5b() -> Branches:
    """192 -> 96 + 64 + 96 + 64 at 35x35."""
    return Branches(
        branch0=ConvBN(192, 96, 1),
        branch1=nn.Sequential(ConvBN(192, 48, 1), same(48, 64, 5, 5)),
        branch2=nn.Sequential(ConvBN(192, 64, 1), same(64, 96, 3, 3), same(96, 96, 3, 3)),
        branch3=pooled(192, 64),
    )


def _block35() -> Residual:
    """At 35x35: 1x1, 3x3, two 3x3."""
    return Residual(
        0.17,
        320,
        128,
        branch0=ConvBN(320, 32, 1),
        branch1=nn.Sequential(ConvBN(320, 32, 1), same(32, 32, 3, 3)),
        branch2=nn.Sequential(ConvBN(320, 32, 1), same(32, 48, 3, 3), same(48, 64, 3, 3)),
    )


def _mixed_6a() -> Branches:
    """320 at 35x35 -> 384 + 384 + 320 at 17x17."""
    return Branches(
        branch0=ConvBN(320, 384, 3, 2),
        branch1=nn.Sequential(ConvBN(320, 256, 1), same(256, 256, 3, 3), ConvBN(256, 384, 3, 2)),
        branch2=nn.MaxPool2d(3, 2),
    )


def _block17() -> Residual:
    """At 17x17: 1x1, and a 7x7 factorised."""
    return Residual(
        0.10,
        1088,
        384,
        branch0=ConvBN(1088, 192, 1),
        branch1=nn.Sequential(ConvBN(1088, 128, 1), same(128, 160, 1, 7), same(160, 192, 7, 1)),
    )


def _mixed_7a() -> Branches:
    """1088 at 17x17 -> 384 + 288 + 320 + 1088 at 8x8."""
    return Branches(
        branch0=nn.Sequential(ConvBN(1088, 256, 1), ConvBN(256, 384, 3, 2)),
        branch1=nn.Sequential(ConvBN(1088, 256, 1), ConvBN(256, 288, 3, 2)),
        branch2=nn.Sequential(ConvBN(1088, 256, 1), same(256, 288, 3, 3), ConvBN(288, 320, 3, 2)),
        branch3=nn.MaxPool2d(3, 2),
    )


def _block8(scale: float = 0.20, last: bool = False) -> Residual:
    """At 8x8: 1x1, and a 3x3 factorised."""
    return Residual(
        scale,
        2080,
        448,
        last,
        branch0=ConvBN(2080, 192, 1),
        branch1=nn.Sequential(ConvBN(2080, 192, 1), same(192, 224, 1, 3), same(224, 256, 3, 1)),
    )


class InceptionResNetV2(nn.Module):
    """[N, 3, 299, 299] -> 320 maps 35x35 -> 1088 maps 17x17 -> 2080 maps 8x8 -> 1536 -> average -> classes."""

    head_names = ("classif",)
    stage_names = (
        *("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a"),
        *("mixed_5b", "repeat", "mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8", "conv2d_7b"),
    )

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv2d_1a = ConvBN(3, 32, 3, 2)
        self.conv2d_2a = ConvBN(32, 32, 3)
        self.conv2d_2b = ConvBN(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = ConvBN(64, 80, 1)
        self.conv2d_4a = ConvBN(80, 192, 3)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = _mixed_5b()
        self.repeat = nn.Sequential(*(_block35() for _ in range(10)))
        self.mixed_6a = _mixed_6a()
        self.repeat_1 = nn.Sequential(*(_block17() for _ in range(20)))
        self.mixed_7a = _mixed_7a()
        self.repeat_2 = nn.Sequential(*(_block8() for _ in range(9)))
        self.block8 = _block8(1.0, last=True)
        self.conv2d_7b = ConvBN(2080, 1536, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classif = nn.Linear(1536, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4a(self.conv2d_3b(self.maxpool_3a(x)))
        x = self.repeat(self.mixed_5b(self.maxpool_5a(x)))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.block8(self.repeat_2(self.mixed_7a(x)))
        out: Tensor = self.classif(self.pool(self.conv2d_7b(x)).flatten(1))
        return out


def inception_resnet_v2(classes: int = 1000) -> InceptionResNetV2:
    """The most accurate single network of the paper: 19.9 % top-1 and 4.9 % top-5 error with one crop."""
    return InceptionResNetV2(classes)
