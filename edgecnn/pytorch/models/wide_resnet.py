"""Wide ResNet: Zagoruyko and Komodakis, "Wide residual networks", 2016.

Wider instead of deeper: the 3x3 convolutions of each bottleneck have twice the maps, which a GPU computes in parallel
where depth is sequential. Keys and arithmetic are torchvision's (see `resnet.py`).
"""

from __future__ import annotations

from edgecnn.pytorch.models.resnet import Bottleneck, ResNet


def wide_resnet50_2(classes: int = 1000) -> ResNet:
    """ResNet-50 with the inner width doubled; better than ResNet-152 in the paper."""
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, base_width=128)


def wide_resnet101_2(classes: int = 1000) -> ResNet:
    """ResNet-101 with the inner width doubled."""
    return ResNet(Bottleneck, (3, 4, 23, 3), classes, base_width=128)
