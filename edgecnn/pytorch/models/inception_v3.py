"""Inception-v3: Szegedy et al., "Rethinking the Inception architecture for computer vision", 2015.

Convolutions are factorised: a 5x5 into two 3x3, a 7x7 into 1x7 and 7x1; grids shrink by pooling and strided convolution
side by side, so that neither is a bottleneck. One auxiliary head, with BN, while training.

Keys and arithmetic are torchvision's (weights converted from the authors'): in module A one branch keeps a real 5x5.
Inputs are scaled to [-1, 1]. Module names are the paper's figures: A = 5, B and D = 10, C = 6, E = 7.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.errors import ModelError
from edgecnn.pytorch.models._parts import initialize_he

Kernel = int | tuple[int, int]


class ConvBN(nn.Module):
    """Convolution, BN, ReLU; without padding unless given."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class InceptionA(nn.Module):
    """35x35: 1x1; 5x5; two 3x3; pooled."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBN(inputs, 64, 1)
        self.branch5x5_1 = ConvBN(inputs, 48, 1)
        self.branch5x5_2 = ConvBN(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvBN(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvBN(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBN(96, 96, 3, padding=1)
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = ConvBN(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(self.pool(x))], 1)


class InceptionB(nn.Module):
    """35x35 -> 17x17: strided 3x3; 3x3 and strided 3x3; pooled."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvBN(inputs, 384, 3, 2)
        self.branch3x3dbl_1 = ConvBN(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvBN(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvBN(96, 96, 3, 2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, self.pool(x)], 1)


class InceptionC(nn.Module):
    """17x17: 1x1; 7x7 as 1x7 and 7x1; that twice; pooled. `width` is that of the inner convolutions."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBN(inputs, 192, 1)
        self.branch7x7_1 = ConvBN(inputs, width, 1)
        self.branch7x7_2 = ConvBN(width, width, (1, 7), padding=(0, 3))
        self.branch7x7_3 = ConvBN(width, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = ConvBN(inputs, width, 1)
        self.branch7x7dbl_2 = ConvBN(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = ConvBN(width, width, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = ConvBN(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = ConvBN(width, 192, (1, 7), padding=(0, 3))
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = ConvBN(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(self.pool(x))], 1)


class InceptionD(nn.Module):
    """17x17 -> 8x8: strided 3x3; 1x7, 7x1 and strided 3x3; pooled."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvBN(inputs, 192, 1)
        self.branch3x3_2 = ConvBN(192, 320, 3, 2)
        self.branch7x7x3_1 = ConvBN(inputs, 192, 1)
        self.branch7x7x3_2 = ConvBN(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvBN(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvBN(192, 192, 3, 2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat([three, self.branch7x7x3_4(seven), self.pool(x)], 1)


class InceptionE(nn.Module):
    """8x8: 1x1; a 3x3 split into 1x3 beside 3x1; 3x3 and such a split; pooled."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1 = ConvBN(inputs, 320, 1)
        self.branch3x3_1 = ConvBN(inputs, 384, 1)
        self.branch3x3_2a = ConvBN(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvBN(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvBN(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvBN(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvBN(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvBN(384, 384, (3, 1), padding=(1, 0))
        self.pool = nn.AvgPool2d(3, 1, 1)
        self.branch_pool = ConvBN(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            *(self.branch3x3_2a(three), self.branch3x3_2b(three)),
            *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, 1)


class AuxiliaryHead(nn.Module):
    """A small classifier on the last 17x17 map."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3)
        self.conv0 = ConvBN(inputs, 128, 1)
        self.conv1 = ConvBN(128, 768, 5)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < 17:
            raise ModelError(
                f"inception_v3 cannot be trained at this resolution: its auxiliary head needs maps of 17x17, "
                f"found {x.shape[-2]}x{x.shape[-1]}",
                "train it at 299x299 or more; smaller images are for evaluation alone",
            )
        x = self.conv1(self.conv0(self.pool(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class InceptionV3(nn.Module):
    """[N, 3, 299, 299] -> stem 192 maps 35x35 -> 3 A -> B, 17x17 -> 4 C -> D, 8x8 -> 2 E -> 2048 averages -> classes.

    In train mode the result is (logits, auxiliary logits).
    """

    head_names = ("fc", "AuxLogits.fc")
    aux_names = ("AuxLogits",)
    stage_names = (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        *("Mixed_7a", "Mixed_7b", "Mixed_7c"),
    )

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBN(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvBN(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvBN(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvBN(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBN(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.AuxLogits = AuxiliaryHead(768, classes)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2048, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        middle = x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return (logits, self.AuxLogits(middle)) if self.training else logits


def inception_v3(classes: int = 1000) -> InceptionV3:
    """23.8 M parameters (27.2 M with the auxiliary head); 4.2 % top-5 error, multi-crop, in the paper."""
    return InceptionV3(classes)
