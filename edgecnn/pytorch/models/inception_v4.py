"""Inception-v4: Szegedy, Ioffe, Vanhoucke, Alemi, "Inception-v4, Inception-ResNet and the impact of residual
connections on learning", 2016.

The inception idea without residuals, made uniform: a stem that already branches, then 4 modules A at 35x35, 7 modules B
at 17x17 (7x7 convolutions factorised into 1x7 and 7x1) and 3 modules C at 8x8 (3x3 spread into 1x3 beside 3x1), with a
reduction in between. Keys and arithmetic are timm's (ported from the authors' TensorFlow weights): BN with epsilon
1e-3, average pools that do not count the border, no dropout in the graph (the paper keeps 0.8 before the classifier).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._inception import Branches, ConvBN, pooled, same
from edgecnn.pytorch.models._parts import initialize_he


def _stem() -> list[nn.Module]:
    """[N, 3, 299, 299] -> [N, 384, 35, 35], by three convolutions and three forks."""
    return [
        ConvBN(3, 32, 3, 2),
        ConvBN(32, 32, 3),
        ConvBN(32, 64, 3, padding=1),
        Branches(maxpool=nn.MaxPool2d(3, 2), conv=ConvBN(64, 96, 3, 2)),
        Branches(
            branch0=nn.Sequential(ConvBN(160, 64, 1), ConvBN(64, 96, 3)),
            branch1=nn.Sequential(ConvBN(160, 64, 1), same(64, 64, 1, 7), same(64, 64, 7, 1), ConvBN(64, 96, 3)),
        ),
        Branches(conv=ConvBN(192, 192, 3, 2), maxpool=nn.MaxPool2d(3, 2)),
    ]


def _module_a() -> Branches:
    """384 -> 96 + 96 + 96 + 96: 1x1, 3x3, two 3x3 (for a 5x5), pool."""
    return Branches(
        branch0=ConvBN(384, 96, 1),
        branch1=nn.Sequential(ConvBN(384, 64, 1), same(64, 96, 3, 3)),
        branch2=nn.Sequential(ConvBN(384, 64, 1), same(64, 96, 3, 3), same(96, 96, 3, 3)),
        branch3=pooled(384, 96),
    )


def _reduction_a() -> Branches:
    """384 at 35x35 -> 384 + 256 + 384 at 17x17."""
    return Branches(
        branch0=ConvBN(384, 384, 3, 2),
        branch1=nn.Sequential(ConvBN(384, 192, 1), same(192, 224, 3, 3), ConvBN(224, 256, 3, 2)),
        branch2=nn.MaxPool2d(3, 2),
    )


def _module_b() -> Branches:
    """1024 -> 384 + 256 + 256 + 128: 1x1, one 7x7, two 7x7, each factorised, pool."""
    return Branches(
        branch0=ConvBN(1024, 384, 1),
        branch1=nn.Sequential(ConvBN(1024, 192, 1), same(192, 224, 1, 7), same(224, 256, 7, 1)),
        branch2=nn.Sequential(
            ConvBN(1024, 192, 1),
            same(192, 192, 7, 1),
            same(192, 224, 1, 7),
            same(224, 224, 7, 1),
            same(224, 256, 1, 7),
        ),
        branch3=pooled(1024, 128),
    )


def _reduction_b() -> Branches:
    """1024 at 17x17 -> 192 + 320 + 1024 at 8x8."""
    return Branches(
        branch0=nn.Sequential(ConvBN(1024, 192, 1), ConvBN(192, 192, 3, 2)),
        branch1=nn.Sequential(ConvBN(1024, 256, 1), same(256, 256, 1, 7), same(256, 320, 7, 1), ConvBN(320, 320, 3, 2)),
        branch2=nn.MaxPool2d(3, 2),
    )


class ModuleC(nn.Module):
    """1536 -> 256 + 512 + 512 + 256: the 1x3 and 3x1 halves of a branch's last 3x3 stand side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.branch0 = ConvBN(1536, 256, 1)
        self.branch1_0 = ConvBN(1536, 384, 1)
        self.branch1_1a = same(384, 256, 1, 3)
        self.branch1_1b = same(384, 256, 3, 1)
        self.branch2_0 = ConvBN(1536, 384, 1)
        self.branch2_1 = same(384, 448, 3, 1)
        self.branch2_2 = same(448, 512, 1, 3)
        self.branch2_3a = same(512, 256, 1, 3)
        self.branch2_3b = same(512, 256, 3, 1)
        self.branch3 = pooled(1536, 256)

    def forward(self, x: Tensor) -> Tensor:
        short = self.branch1_0(x)
        long = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        return torch.cat(
            [
                self.branch0(x),
                self.branch1_1a(short),
                self.branch1_1b(short),
                self.branch2_3a(long),
                self.branch2_3b(long),
                self.branch3(x),
            ],
            1,
        )


class InceptionV4(nn.Module):
    """[N, 3, 299, 299] -> 384 maps 35x35 -> 1024 maps 17x17 -> 1536 maps 8x8 -> average -> classes."""

    head_names = ("last_linear",)
    stage_names = tuple(f"features.{index}" for index in range(22))

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_stem(),
            *(_module_a() for _ in range(4)),
            _reduction_a(),
            *(_module_b() for _ in range(7)),
            _reduction_b(),
            *(ModuleC() for _ in range(3)),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last_linear = nn.Linear(1536, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last_linear(self.pool(self.features(x)).flatten(1))
        return out


def inception_v4(classes: int = 1000) -> InceptionV4:
    """In the paper 20.0 % top-1 and 5.0 % top-5 error with one crop."""
    return InceptionV4(classes)
