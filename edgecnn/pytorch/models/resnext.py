"""ResNeXt: Xie, Girshick, Dollar, Tu, He, "Aggregated residual transformations for deep neural networks", 2016.

The 3x3 convolution of each bottleneck is grouped: 32 narrow paths of the same shape (the cardinality), added up by the
1x1 that follows. Keys and arithmetic are torchvision's (see `resnet.py`).
"""

from __future__ import annotations

from edgecnn.pytorch.models.resnet import Bottleneck, ResNet


def resnext50_32x4d(classes: int = 1000) -> ResNet:
    """32 groups of width 4 in the first stage; ResNet-50's cost."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, groups=32, base_width=4)


def resnext101_32x8d(classes: int = 1000) -> ResNet:
    """32 groups of width 8 in the first stage, 23 blocks in the third."""
    return ResNet(Bottleneck, (3, 4, 23, 3), classes, groups=32, base_width=8)
