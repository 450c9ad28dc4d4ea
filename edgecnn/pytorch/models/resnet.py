"""ResNet: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015.

Each block learns a residual F(x) and gives ReLU(F(x) + x): a deeper network can always do nothing. Where the shape
changes, the shortcut is a strided 1x1 projection (option B).

Keys and arithmetic are torchvision's. As there, the bottleneck strides in its 3x3 convolution; the paper strides in the
first 1x1, which sees only a quarter of its input ("ResNet v1.5", about 0.5 pp better).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import initialize_he


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, groups: int, base_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(inputs, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + (x if self.downsample is None else self.downsample(x)))
        return out


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times `width`.

    The inner width is width * base_width / 64 for each of `groups` groups: 64 and 1 give ResNet, 128 and 1 Wide ResNet,
    4 and 32 ResNeXt.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, groups: int, base_width: int) -> None:
        super().__init__()
        inner, outputs = width * base_width // 64 * groups, width * self.expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + (x if self.downsample is None else self.downsample(x)))
        return out


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """[N, 3, 224, 224] -> stem 64 maps 56x56 -> four stages of 56, 28, 14 and 7 squared -> average -> classes."""

    head_names = ("fc",)
    stage_names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        classes: int,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)

        def stage(inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
            outputs = width * block.expansion
            first = block(inputs, width, stride, groups, base_width)
            return nn.Sequential(first, *(block(outputs, width, 1, groups, base_width) for _ in range(count - 1)))

        self.layer1 = stage(64, 64, blocks[0], 1)
        self.layer2 = stage(64 * block.expansion, 128, blocks[1], 2)
        self.layer3 = stage(128 * block.expansion, 256, blocks[2], 2)
        self.layer4 = stage(256 * block.expansion, 512, blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def resnet18(classes: int = 1000) -> ResNet:
    """17 convolutions and a classifier."""
    return ResNet(BasicBlock, (2, 2, 2, 2), classes)


def resnet34(classes: int = 1000) -> ResNet:
    """33 convolutions and a classifier."""
    return ResNet(BasicBlock, (3, 4, 6, 3), classes)


def resnet50(classes: int = 1000) -> ResNet:
    """ResNet-34 with bottlenecks in place of basic blocks."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes)


def resnet101(classes: int = 1000) -> ResNet:
    """23 bottlenecks in the third stage."""
    return ResNet(Bottleneck, (3, 4, 23, 3), classes)


def resnet152(classes: int = 1000) -> ResNet:
    """The deepest of the paper; six of its kind won ILSVRC 2015 with 3.57 % top-5 error."""
    return ResNet(Bottleneck, (3, 8, 36, 3), classes)
