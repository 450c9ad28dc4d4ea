"""LeNet-5: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.

The form in which it is taught: tanh, plain average pooling, a full second convolution and a linear last layer. The
paper's pooling had a gain and a bias per channel, its second convolution saw chosen subsets of the maps, its tanh was
scaled by 1.7159, and its output were radial basis units.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgecnn.pytorch.models._parts import initialize_xavier


class LeNet5(nn.Module):
    """[N, 1, 32, 32] -> 6 maps 28x28 -> 14x14 -> 16 maps 10x10 -> 5x5 -> 400 -> 120 -> 84 -> classes."""

    head_names = ("fc3",)
    stage_names = ("conv1", "conv2", "fc1", "fc2")

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.tanh1 = nn.Tanh()
        self.pool1 = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.tanh2 = nn.Tanh()
        self.pool2 = nn.AvgPool2d(2)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.tanh3 = nn.Tanh()
        self.fc2 = nn.Linear(120, 84)
        self.tanh4 = nn.Tanh()
        self.fc3 = nn.Linear(84, classes)
        initialize_xavier(self.modules())

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.tanh1(self.conv1(x)))
        x = self.pool2(self.tanh2(self.conv2(x))).flatten(1)
        x = self.tanh4(self.fc2(self.tanh3(self.fc1(x))))
        logits: Tensor = self.fc3(x)
        return logits


def lenet5(classes: int = 10) -> LeNet5:
    """61 706 parameters; digits of 28x28 are padded or resized to 32x32."""
    return LeNet5(classes)
