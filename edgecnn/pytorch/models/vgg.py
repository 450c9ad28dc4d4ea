"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014.

One kind of convolution (3x3, stride 1, padding 1) and one kind of pooling (2x2, stride 2). Two 3x3 convolutions see
what one 5x5 sees, three what one 7x7 sees, with fewer weights and more nonlinearities. Widths double after each
pooling: 64, 128, 256, 512, 512.

Keys are torchvision's: configurations A, B, D and E of the paper's table, each also with BN after every convolution
(which the paper, older than BN, does not have). Average pooling to 7x7 lets it take other resolutions; at 224 there is
nothing to pool. Initialized as He et al. 2015: the paper had to train the shallow networks first and grow from them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import GridPool, initialize_he

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """[N, 3, 224, 224] -> five stages of 224, 112, 56, 28 and 14 squared, each pooled -> 7x7 -> 4096 -> 4096."""

    head_names = ("classifier.6",)

    def __init__(self, depths: Sequence[int], classes: int, batch_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, depth in zip(WIDTHS, depths, strict=True):
            for _ in range(depth):
                layers.append(nn.Conv2d(inputs, width, 3, 1, 1))
                layers += [nn.BatchNorm2d(width)] if batch_norm else []
                layers.append(nn.ReLU())
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = GridPool(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )
        convolutions = [n for n, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
        self.stage_names = (*(f"features.{n}" for n in convolutions), "classifier.0", "classifier.3")
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def vgg11(classes: int = 1000) -> VGG:
    """Configuration A."""
    return VGG((1, 1, 2, 2, 2), classes)


def vgg11_bn(classes: int = 1000) -> VGG:
    """Configuration A with BN."""
    return VGG((1, 1, 2, 2, 2), classes, batch_norm=True)


def vgg13(classes: int = 1000) -> VGG:
    """Configuration B."""
    return VGG((2, 2, 2, 2, 2), classes)


def vgg13_bn(classes: int = 1000) -> VGG:
    """Configuration B with BN."""
    return VGG((2, 2, 2, 2, 2), classes, batch_norm=True)


def vgg16(classes: int = 1000) -> VGG:
    """Configuration D; 138 M parameters, 124 M of them in the fully connected layers; 7.3 % top-5 error in 2014."""
    return VGG((2, 2, 3, 3, 3), classes)


def vgg16_bn(classes: int = 1000) -> VGG:
    """Configuration D with BN."""
    return VGG((2, 2, 3, 3, 3), classes, batch_norm=True)


def vgg19(classes: int = 1000) -> VGG:
    """Configuration E."""
    return VGG((2, 2, 4, 4, 4), classes)


def vgg19_bn(classes: int = 1000) -> VGG:
    """Configuration E with BN."""
    return VGG((2, 2, 4, 4, 4), classes, batch_norm=True)
