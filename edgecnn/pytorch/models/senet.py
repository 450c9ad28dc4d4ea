"""SENet: Hu, Shen, Albanie, Sun, Wu, "Squeeze-and-excitation networks", 2017.

Each block first asks which of its channels matter for this image: squeeze (global average), excite (two small layers
and a sigmoid), scale. Keys and arithmetic are those of timm's `legacy_seresnet50`, which follow the authors' Caffe
network: the bottleneck strides in its first 1x1, the stem's pooling rounds up instead of padding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import SqueezeExcitation, initialise_he


class SEBottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, squeeze-and-excitation, then the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * 4
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.se_module = SqueezeExcitation(outputs, outputs // 16)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.se_module(self.bn3(self.conv3(y)))
        out: Tensor = self.relu3(y + (x if self.downsample is None else self.downsample(x)))
        return out


class SENet(nn.Module):
    """[N, 3, 224, 224] -> stem 64 maps 56x56 -> four stages of 56, 28, 14 and 7 squared -> average -> classes."""

    head_names = ("last_linear",)
    stage_names = ("layer0", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, blocks: Sequence[int], classes: int) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(
            OrderedDict(conv1=nn.Conv2d(3, 64, 7, 2, 3, bias=False), bn1=nn.BatchNorm2d(64), relu1=nn.ReLU())
        )
        self.pool0 = nn.MaxPool2d(3, 2, ceil_mode=True)

        def stage(inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
            first = SEBottleneck(inputs, width, stride)
            return nn.Sequential(first, *(SEBottleneck(width * 4, width, 1) for _ in range(count - 1)))

        self.layer1 = stage(64, 64, blocks[0], 1)
        self.layer2 = stage(256, 128, blocks[1], 2)
        self.layer3 = stage(512, 256, blocks[2], 2)
        self.layer4 = stage(1024, 512, blocks[3], 2)
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.last_linear = nn.Linear(2048, classes)
        initialise_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.pool0(self.layer0(x)))
        x = self.layer4(self.layer3(self.layer2(x)))
        logits: Tensor = self.last_linear(self.avg_pool(x).flatten(1))
        return logits


def se_resnet50(classes: int = 1000) -> SENet:
    """ResNet-50 with squeeze-and-excitation: a tenth more parameters for ResNet-101's accuracy."""
    return SENet((3, 4, 6, 3), classes)
