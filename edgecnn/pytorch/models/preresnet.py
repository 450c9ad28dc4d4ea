"""Pre-activation ResNet: He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", 2016.

BN and ReLU move in front of the convolutions they used to follow, so that nothing but additions lies on the identity
path: x_L = x_l + the sum of all residuals in between, and the gradient reaches every layer undamped. One last BN-ReLU
closes the network. Where the shape changes, the shortcut is a strided 1x1 projection of the *pre-activated* input.

Keys and arithmetic are timm's `resnetv2_*` with batch norm: as there, the bottleneck strides in its 3x3 convolution
(the paper in its first 1x1), and the classifier is a 1x1 convolution on the pooled map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import initialize_he


class NormReLU(nn.BatchNorm2d):
    """The pre-activation: BN, then ReLU (with the keys of the BN alone)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class PreBasic(nn.Module):
    """x + conv3x3(pre(conv3x3(pre(x))))."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.downsample = _projection(inputs, width, stride) if stride != 1 or inputs != width else None
        self.norm1 = NormReLU(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm2 = NormReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(active)
        y = self.conv1(active)
        y = self.conv2(self.norm2(y))
        out: Tensor = y + shortcut
        return out


class PreBottleneck(nn.Module):
    """x + conv1x1(pre(conv3x3(pre(conv1x1(pre(x)))))), a quarter of the width inside."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.downsample = _projection(inputs, outputs, stride) if stride != 1 or inputs != outputs else None
        self.norm1 = NormReLU(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm2 = NormReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm3 = NormReLU(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(active)
        y = self.conv1(active)
        y = self.conv2(self.norm2(y))
        y = self.conv3(self.norm3(y))
        out: Tensor = y + shortcut
        return out


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    projection = nn.Sequential()
    projection.add_module("conv", nn.Conv2d(inputs, outputs, 1, stride, bias=False))
    return projection


class PreStage(nn.Module):
    """`count` blocks at one resolution; the first one may stride."""

    def __init__(self, block: type[PreBasic | PreBottleneck], inputs: int, width: int, count: int, stride: int) -> None:
        super().__init__()
        outputs = width * block.expansion
        self.blocks = nn.Sequential(block(inputs, width, stride), *(block(outputs, width, 1) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


class PreResNet(nn.Module):
    """`stem` -> one stage per entry of `blocks`, all but the first halving the map -> BN-ReLU -> mean -> classes."""

    head_names = ("head.fc",)

    def __init__(
        self,
        block: type[PreBasic | PreBottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        stem: nn.Sequential,
        stem_width: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.stage_names = ("stem", *(f"stages.{index}" for index in range(len(blocks))), "norm")
        self.stem = stem
        self.stages = nn.Sequential()
        channels = stem_width
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            self.stages.append(PreStage(block, channels, width, count, 1 if index == 0 else 2))
            channels = width * block.expansion
        self.norm = NormReLU(channels)
        self.head = nn.Sequential()
        self.head.add_module("pool", nn.AdaptiveAvgPool2d(1))
        classifier = nn.Conv2d(channels, classes, 1)
        self.head.add_module("fc", classifier)
        initialize_he(self)
        nn.init.normal_(classifier.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stages(self.stem(x)))
        out: Tensor = self.head(x).flatten(1)
        return out


def _imagenet(block: type[PreBasic | PreBottleneck], blocks: Sequence[int], classes: int) -> PreResNet:
    """[N, 3, 224, 224] -> stem 64 maps 56x56 -> four stages of 56, 28, 14 and 7 squared; the stem has no BN-ReLU: the
    first block brings its own."""
    stem = nn.Sequential()
    stem.add_module("conv", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
    stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
    return PreResNet(block, blocks, (64, 128, 256, 512), stem, 64, classes)


def preresnet18(classes: int = 1000) -> PreResNet:
    """Basic blocks; timm's resnetv2_18."""
    return _imagenet(PreBasic, (2, 2, 2, 2), classes)


def preresnet50(classes: int = 1000) -> PreResNet:
    """Bottlenecks; timm's resnetv2_50."""
    return _imagenet(PreBottleneck, (3, 4, 6, 3), classes)


def preresnet101(classes: int = 1000) -> PreResNet:
    """timm's resnetv2_101; the paper uses it in its ImageNet study."""
    return _imagenet(PreBottleneck, (3, 4, 23, 3), classes)


def preresnet152(classes: int = 1000) -> PreResNet:
    """In the paper 21.1 % top-1 error at 320 pixels, 0.2 below the original unit."""
    return _imagenet(PreBottleneck, (3, 8, 36, 3), classes)


def preresnet200(classes: int = 1000) -> PreResNet:
    """In the paper 20.7 % top-1 error at 320 pixels, where the original unit overfits to 21.8 %."""
    return _imagenet(PreBottleneck, (3, 24, 36, 3), classes)
