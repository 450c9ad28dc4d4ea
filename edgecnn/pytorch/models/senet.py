"""SENet: Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-excitation networks", 2017.

Each block first asks which of its channels matter for this image: squeeze (global average), excite (two small layers
and a sigmoid), scale. Keys and arithmetic are those of timm's `legacy_*`, which follow the authors' Caffe networks: the
bottleneck of SE-ResNet strides in its first 1x1, the stem's pooling rounds up instead of padding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import SqueezeExcitation, initialize_he


@dataclass(frozen=True)
class Design:
    """What the variants differ in: the maps after the first 1x1 and after the 3x3 in multiples of a stage's width, the
    groups of the 3x3, which convolution strides, and the kernel of the projections that stride."""

    first: int = 1
    inner: int = 1
    groups: int = 1
    first_strides: bool = False
    projection: int = 1


class SEBottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, squeeze-and-excitation, then the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, design: Design) -> None:
        super().__init__()
        first, inner, outputs = width * design.first, width * design.inner, width * 4
        strides = (stride, 1) if design.first_strides else (1, stride)
        self.conv1 = nn.Conv2d(inputs, first, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(first, inner, 3, strides[1], 1, groups=design.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se_module = SqueezeExcitation(outputs, outputs // 16)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            kernel = design.projection if stride != 1 else 1
            projection = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.se_module(self.bn3(self.conv3(y)))
        out: Tensor = self.relu3(y + (x if self.downsample is None else self.downsample(x)))
        return out


class SENet(nn.Module):
    """[N, 3, 224, 224] -> `stem` 112x112, pooled -> four stages of 56, 28, 14 and 7 squared -> average -> classes."""

    head_names = ("last_linear",)
    stage_names = ("layer0", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        blocks: Sequence[int],
        classes: int,
        design: Design,
        stem: Sequence[tuple[int, int, int]] = ((64, 7, 2),),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layer0 = _stem(stem)
        self.pool0 = nn.MaxPool2d(3, 2, ceil_mode=True)

        def stage(inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
            first = SEBottleneck(inputs, width, stride, design)
            return nn.Sequential(first, *(SEBottleneck(width * 4, width, 1, design) for _ in range(count - 1)))

        self.layer1 = stage(stem[-1][0], 64, blocks[0], 1)
        self.layer2 = stage(256, 128, blocks[1], 2)
        self.layer3 = stage(512, 256, blocks[2], 2)
        self.layer4 = stage(1024, 512, blocks[3], 2)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(2048, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.pool0(self.layer0(x)))
        x = self.layer4(self.layer3(self.layer2(x)))
        logits: Tensor = self.last_linear(self.dropout(self.avg_pool(x).flatten(1)))
        return logits


def _stem(convolutions: Sequence[tuple[int, int, int]]) -> nn.Sequential:
    """Convolutions of (maps, kernel, stride), each with BN and ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for number, (outputs, kernel, stride) in enumerate(convolutions, start=1):
        layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = outputs
    return nn.Sequential(layers)


def se_resnet50(classes: int = 1000) -> SENet:
    """ResNet-50 with squeeze-and-excitation: a tenth more parameters for ResNet-101's accuracy."""
    return SENet((3, 4, 6, 3), classes, Design(first_strides=True))


def se_resnext50_32x4d(classes: int = 1000) -> SENet:
    """The same on ResNeXt-50, which strides in its 3x3: timm's legacy_seresnext50_32x4d."""
    return SENet((3, 4, 6, 3), classes, Design(first=2, inner=2, groups=32))


def senet154(classes: int = 1000) -> SENet:
    """The core of the entry that won ILSVRC 2017: 64 groups on twice the width, a stem of three 3x3, 3x3 projections,
    dropout; timm's legacy_senet154."""
    stem = ((64, 3, 2), (64, 3, 1), (128, 3, 1))
    return SENet((3, 8, 36, 3), classes, Design(first=2, inner=4, groups=64, projection=3), stem, dropout=0.2)
