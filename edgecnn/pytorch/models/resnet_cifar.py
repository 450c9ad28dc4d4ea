"""ResNet for CIFAR: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015, section 4.2.

6n + 2 weighted layers: a 3x3 stem, three stages of n basic blocks with 16, 32 and 64 maps of 32, 16 and 8 squared, and
a classifier. Where the shape changes the shortcut has no parameters (option A): every second pixel, zeros for the new
channels. Keys are `conv1, bn1, layerN.M.convK, layerN.M.bnK, linear`. The zeros stand on both sides of the channels
that exist, as in the implementation whose trained weights carry these keys; the paper leaves the place open.
A plain network is the same without its shortcuts, key for key.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.pytorch.models._parts import initialize_he


class OptionA(nn.Module):
    """[N, C, H, W] -> [N, 2C, H/2, W/2]: the even pixels, between C/2 channels of zeros on either side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.zeros = channels // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and, unless the network is `plain`, the shortcut around them."""

    def __init__(self, inputs: int, width: int, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain
        stride = width // inputs
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = OptionA(inputs) if stride == 2 and not plain else None
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if not self.plain:
            y = y + (x if self.shortcut is None else self.shortcut(x))
        out: Tensor = self.relu2(y)
        return out


class CifarResNet(nn.Module):
    """[N, 3, 32, 32] -> 16 maps 32x32 -> 32 maps 16x16 -> 64 maps 8x8 -> average -> classes."""

    head_names = ("linear",)
    stage_names = ("conv1", "bn1", "layer1", "layer2", "layer3")

    def __init__(self, depth: int, classes: int, plain: bool = False) -> None:
        super().__init__()
        count = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, count, plain)
        self.layer2 = _stage(16, 32, count, plain)
        self.layer3 = _stage(32, 64, count, plain)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def _stage(inputs: int, width: int, count: int, plain: bool) -> nn.Sequential:
    return nn.Sequential(CifarBlock(inputs, width, plain), *(CifarBlock(width, width, plain) for _ in range(count - 1)))


def resnet20_cifar(classes: int = 10) -> CifarResNet:
    """n = 3; 0.27 M parameters; the paper's error is 8.75 %."""
    return CifarResNet(20, classes)


def resnet32_cifar(classes: int = 10) -> CifarResNet:
    """n = 5; 0.46 M parameters; the paper's error is 7.51 %."""
    return CifarResNet(32, classes)


def resnet44_cifar(classes: int = 10) -> CifarResNet:
    """n = 7; 0.66 M parameters; the paper's error is 7.17 %."""
    return CifarResNet(44, classes)


def resnet56_cifar(classes: int = 10) -> CifarResNet:
    """n = 9; 0.85 M parameters; the paper's error is 6.97 %."""
    return CifarResNet(56, classes)


def resnet110_cifar(classes: int = 10) -> CifarResNet:
    """n = 18; 1.7 M parameters; the paper's error is 6.43 %."""
    return CifarResNet(110, classes)


def resnet1202_cifar(classes: int = 10) -> CifarResNet:
    """n = 200; 19.4 M parameters; the paper's error is 7.93 %: it trains as well as 110 layers, and overfits."""
    return CifarResNet(1202, classes)


def plain20_cifar(classes: int = 10) -> CifarResNet:
    """ResNet-20 without its shortcuts: what the paper compares it with, parameter for parameter."""
    return CifarResNet(20, classes, plain=True)
