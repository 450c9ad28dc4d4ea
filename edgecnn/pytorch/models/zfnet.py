"""ZFNet: Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2013.

AlexNet after looking at what its layers had learnt: 7x7 filters at stride 2 in place of 11x11 at stride 4, which had
left the middle frequencies uncovered and aliased; the second convolution strides instead, so that the maps from there
on are AlexNet's. Widths 512, 1024, 512 in convolutions 3 to 5 are those of the larger variant that is taught; the
paper's own drawing keeps 384, 384, 256. Its contrast normalization is AlexNet's LRN.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import local_response_norm


class ZFNet(nn.Module):
    """[N, 3, 224, 224] -> 96 maps 110x110 -> 55x55 -> 256 maps 26x26 -> 13x13 -> 512, 1024, 512 maps -> 6x6 -> 4096."""

    head_names = ("fc8",)
    stage_names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, 2, 1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = local_response_norm()
        self.conv2 = nn.Conv2d(96, 256, 5, 2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm2 = local_response_norm()
        self.conv3 = nn.Conv2d(256, 512, 3, 1, 1)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(512, 1024, 3, 1, 1)
        self.relu4 = nn.ReLU()
        self.conv5 = nn.Conv2d(1024, 512, 3, 1, 1)
        self.relu5 = nn.ReLU()
        self.pool5 = nn.MaxPool2d(3, 2)
        self.fc6 = nn.Linear(512 * 6 * 6, 4096)
        self.relu6 = nn.ReLU()
        self.drop6 = nn.Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu7 = nn.ReLU()
        self.drop7 = nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, classes)
        for layer in self.children():  # section 3: weights of 0.01 (taken as their deviation), biases 0
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.pool1(self.relu1(self.conv1(x))))
        x = self.norm2(self.pool2(self.relu2(self.conv2(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.pool5(self.relu5(self.conv5(x))).flatten(1)
        x = self.drop6(self.relu6(self.fc6(x)))
        x = self.drop7(self.relu7(self.fc7(x)))
        logits: Tensor = self.fc8(x)
        return logits


def zfnet(classes: int = 1000) -> ZFNet:
    """ILSVRC 2013: top-5 error from AlexNet's 16.4 % to 11.7 % (ensembles)."""
    return ZFNet(classes)
