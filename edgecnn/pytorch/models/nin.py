"""Network in network: Lin, Chen, Yan, 2013.

An mlpconv layer is a convolution followed by two 1x1 convolutions: a small perceptron that slides over the image. The
last one makes one map per class, and global average pooling turns maps into logits: there is no fully connected layer
to overfit. ReLU follows every convolution but the last: the authors' networks have one there too, but a class whose
map starts out negative then never gets a gradient.

`nin_cifar` is the paper's network. The paper has none for ImageNet: `nin` is the one that its authors released later.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import initialize_he


def _mlpconv(
    inputs: int, widths: tuple[int, int, int], kernel: int, stride: int, padding: int, last: bool = False
) -> nn.Sequential:
    first, second, third = widths
    return nn.Sequential(
        nn.Conv2d(inputs, first, kernel, stride, padding),
        nn.ReLU(),
        nn.Conv2d(first, second, 1),
        nn.ReLU(),
        nn.Conv2d(second, third, 1),
        *(() if last else (nn.ReLU(),)),
    )


def _initialize(model: nn.Module, last: nn.Sequential) -> None:
    """As He et al. 2015, but small weights for the maps of the classes: the first logits are near zero."""
    initialize_he(model, mode="fan_in")
    nn.init.normal_(last.get_submodule("4").get_parameter("weight"), std=0.01)


class NiN(nn.Module):
    """[N, 3, 224, 224] -> 96 maps 54x54 -> 256 maps 27x27 -> 384 maps 13x13 -> `classes` maps 6x6 -> their averages."""

    head_names = ("mlpconv4.4",)
    stage_names = ("mlpconv1", "mlpconv2", "mlpconv3", "mlpconv4.0", "mlpconv4.2")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.mlpconv1 = _mlpconv(3, (96, 96, 96), 11, 4, 0)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.mlpconv2 = _mlpconv(96, (256, 256, 256), 5, 1, 2)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.mlpconv3 = _mlpconv(256, (384, 384, 384), 3, 1, 1)
        self.pool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.drop3 = nn.Dropout(0.5)
        self.mlpconv4 = _mlpconv(384, (1024, 1024, classes), 3, 1, 1, last=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        _initialize(self, self.mlpconv4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.mlpconv1(x))
        x = self.pool2(self.mlpconv2(x))
        x = self.drop3(self.pool3(self.mlpconv3(x)))
        logits: Tensor = self.avgpool(self.mlpconv4(x)).flatten(1)
        return logits


class CifarNiN(nn.Module):
    """[N, 3, 32, 32] -> 96 maps 32x32 -> 192 maps 16x16 -> `classes` maps 8x8 -> their averages."""

    head_names = ("mlpconv3.4",)
    stage_names = ("mlpconv1", "mlpconv2", "mlpconv3.0", "mlpconv3.2")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.mlpconv1 = _mlpconv(3, (192, 160, 96), 5, 1, 2)
        self.pool1 = nn.MaxPool2d(3, 2, 1)
        self.drop1 = nn.Dropout(0.5)
        self.mlpconv2 = _mlpconv(96, (192, 192, 192), 5, 1, 2)
        self.pool2 = nn.MaxPool2d(3, 2, 1)
        self.drop2 = nn.Dropout(0.5)
        self.mlpconv3 = _mlpconv(192, (192, 192, classes), 3, 1, 1, last=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        _initialize(self, self.mlpconv3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(self.pool1(self.mlpconv1(x)))
        x = self.drop2(self.pool2(self.mlpconv2(x)))
        logits: Tensor = self.avgpool(self.mlpconv3(x)).flatten(1)
        return logits


def nin(classes: int = 1000) -> NiN:
    """Four mlpconv layers; 7.6 M parameters where AlexNet needs 62 M."""
    return NiN(classes)


def nin_cifar(classes: int = 10) -> CifarNiN:
    """Three mlpconv layers; the paper's error is 10.41 %, 8.81 % with augmentation."""
    return CifarNiN(classes)
