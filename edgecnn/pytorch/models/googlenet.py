"""GoogLeNet: Szegedy et al., "Going deeper with convolutions", 2014.

An inception module looks at its input through 1x1, 3x3 and 5x5 filters and a pooling at once, and lets the next layer
choose. Naively that is dear: 854 M multiply-adds for 128, 192 and 96 maps from 256 maps of 28x28. 1x1 convolutions that
first narrow the input to 64 make it 271 M, with a fourth branch behind the pooling (the 358 M often quoted for this
example count its 3x3 twice). Two auxiliary heads feed gradient into the middle of the 22 layers while training (their
losses count 0.3); they are absent in eval mode.

Keys and arithmetic are torchvision's, whose published weights were converted from the authors' later network: BN after
every convolution and no LRN; a 3x3 where the paper has a 5x5 (a slip that its weights made permanent); dropout 0.2
for 0.4; auxiliary pooling to 4x4 by averaging over the whole map. Inputs are scaled to [-1, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._parts import GridPool, initialize_he


class ConvBN(nn.Module):
    """Convolution that keeps the size at stride 1, BN, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class Inception(nn.Module):
    """Four branches side by side; the arguments are the columns of the paper's table 1."""

    def __init__(self, inputs: int, c1: int, reduce3: int, c3: int, reduce5: int, c5: int, pool: int) -> None:
        super().__init__()
        self.branch1 = ConvBN(inputs, c1, 1)
        self.branch2 = nn.Sequential(ConvBN(inputs, reduce3, 1), ConvBN(reduce3, c3, 3))
        self.branch3 = nn.Sequential(ConvBN(inputs, reduce5, 1), ConvBN(reduce5, c5, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvBN(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """A small classifier on a map in the middle."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.pool = GridPool(4)
        self.conv = ConvBN(inputs, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)
        logits: Tensor = self.fc2(self.dropout(self.relu(self.fc1(x))))
        return logits


class GoogLeNet(nn.Module):
    """[N, 3, 224, 224] -> 192 maps 28x28 -> inception 3a-b -> 14x14 -> 4a-e -> 7x7 -> 5a-b -> 1024 averages -> classes.

    In train mode the result is (logits, logits of aux1, logits of aux2).
    """

    head_names = ("fc", "aux1.fc2", "aux2.fc2")
    aux_names = ("aux1", "aux2")
    stage_names = (
        *("conv1", "conv2", "conv3", "inception3a", "inception3b"),
        *("inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "inception5a", "inception5b"),
    )

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(3, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvBN(64, 64, 1)
        self.conv3 = ConvBN(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.aux1 = AuxiliaryHead(512, classes)
        self.aux2 = AuxiliaryHead(528, classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        early = x = self.inception4a(x)
        late = x = self.inception4d(self.inception4c(self.inception4b(x)))
        x = self.maxpool4(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return (logits, self.aux1(early), self.aux2(late)) if self.training else logits


def googlenet(classes: int = 1000) -> GoogLeNet:
    """ILSVRC 2014's winner: 6.67 % top-5 error (ensemble) with a twelfth of AlexNet's parameters."""
    return GoogLeNet(classes)
