"""Wide ResNet: Zagoruyko and Komodakis, "Wide residual networks", 2016.

Wider instead of deeper: the 3x3 convolutions of each bottleneck have twice the maps, which a GPU computes in parallel
where depth is sequential. Keys and arithmetic are torchvision's (see `resnet.py`). The CIFAR network widens all
convolutions of a pre-activation ResNet, and has the keys of `preresnet.py`.
"""

from __future__ import annotations

from torch import nn

from edgecnn.pytorch.models.preresnet import PreBasic, PreResNet
from edgecnn.pytorch.models.resnet import Bottleneck, ResNet


def wide_resnet50_2(classes: int = 1000) -> ResNet:
    """ResNet-50 with the inner width doubled; better than ResNet-152 in the paper."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, base_width=128)


def wide_resnet101_2(classes: int = 1000) -> ResNet:
    """ResNet-101 with the inner width doubled."""
    return ResNet(Bottleneck, (3, 4, 23, 3), classes, base_width=128)


def wrn28_10_cifar(classes: int = 10) -> PreResNet:
    """28 layers, ten times as wide: [N, 3, 32, 32] -> 160 maps 32x32 -> 320 maps 16x16 -> 640 maps 8x8 -> classes;
    36.5 M parameters and 4.00 % error on CIFAR-10, where 1001 thin layers have 4.62 %."""
    stem = nn.Sequential()
    stem.add_module("conv", nn.Conv2d(3, 16, 3, 1, 1, bias=False))
    return PreResNet(PreBasic, (4, 4, 4), (160, 320, 640), stem, 16, classes)
