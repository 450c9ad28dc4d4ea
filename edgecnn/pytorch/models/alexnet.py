"""AlexNet: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012;
and "One weird trick for parallelizing convolutional neural networks", 2014.

`alexnet` is the network of 2012 as it is taught: on one device, so without the two groups that were forced by two GPUs
(62.4 M parameters; 61.0 M with groups), and with LRN after the pooling (the paper normalizes first, which costs four
times as much for nearly the same numbers). Input 227x227: with the 224x224 that the paper states, 55 does not come out.

`alexnet_owt` is the single-tower network of 2014 with torchvision's keys: other widths, padding 2, no LRN, and average
pooling to 6x6, so that it takes other resolutions. The published weights are for it.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import GridPool, initialize_he, local_response_norm


class AlexNet(nn.Module):
    """[N, 3, 227, 227] -> 96 maps 55x55 -> 256 maps 27x27 -> 384, 384, 256 maps 13x13 -> 6x6 -> 4096 -> 4096."""

    head_names = ("fc8",)
    stage_names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, 4)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(3, 2)
        self.norm1 = local_response_norm()
        self.conv2 = nn.Conv2d(96, 256, 5, 1, 2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(3, 2)
        self.norm2 = local_response_norm()
        self.conv3 = nn.Conv2d(256, 384, 3, 1, 1)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(384, 384, 3, 1, 1)
        self.relu4 = nn.ReLU()
        self.conv5 = nn.Conv2d(384, 256, 3, 1, 1)
        self.relu5 = nn.ReLU()
        self.pool5 = nn.MaxPool2d(3, 2)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.relu6 = nn.ReLU()
        self.drop6 = nn.Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096)
        self.relu7 = nn.ReLU()
        self.drop7 = nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, classes)
        self._initialize()

    def _initialize(self) -> None:
        """Section 5 of the paper: normal weights of deviation 0.01; biases of 1 feed the ReLUs of conv2, 4, 5 and the
        hidden layers with positive inputs from the start."""
        for name, layer in self.named_children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.constant_(layer.bias, 1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.pool1(self.relu1(self.conv1(x))))
        x = self.norm2(self.pool2(self.relu2(self.conv2(x))))
        x = self.relu4(self.conv4(self.relu3(self.conv3(x))))
        x = self.pool5(self.relu5(self.conv5(x))).flatten(1)
        x = self.drop6(self.relu6(self.fc6(x)))
        x = self.drop7(self.relu7(self.fc7(x)))
        logits: Tensor = self.fc8(x)
        return logits


class AlexNetOWT(nn.Module):
    """[N, 3, 224, 224] -> 64 maps 55x55 -> 192 maps 27x27 -> 384, 256, 256 maps 13x13 -> 6x6 -> 4096 -> 4096."""

    head_names = ("classifier.6",)
    stage_names = tuple(f"features.{n}" for n in (0, 3, 6, 8, 10)) + ("classifier.1", "classifier.4")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = GridPool(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def alexnet(classes: int = 1000) -> AlexNet:
    """ILSVRC 2012: 15.3 % top-5 error with seven networks, 18.2 % with one."""
    return AlexNet(classes)


def alexnet_owt(classes: int = 1000) -> AlexNetOWT:
    """The one tower of 2014; 61.1 M parameters."""
    return AlexNetOWT(classes)
