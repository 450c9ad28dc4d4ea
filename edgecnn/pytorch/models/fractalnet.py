"""FractalNet: Larsson, Maire, Shakhnarovich, "FractalNet: ultra-deep neural networks without residuals", 2016.

Depth without a shortcut: one expansion rule, applied C - 1 times to a single convolution,

    f_1(z) = conv(z)        f_{C+1}(z) = join(f_C(f_C(z)), conv(z))

gives a block with C columns, the deepest of 2^(C-1) convolutions and the shallowest of one. A join is the mean of the
columns that arrive at it; joins in direct succession are one join of all their inputs. In training *drop-path* keeps
the columns from leaning on each other: half of the batches drop inputs of joins at random (local), the other half
train a single column (global). At test time the whole network answers.

Convolution here means 3x3, BN, ReLU; 2x2 max pooling separates the blocks, after the last join as in the paper's figure
1 (the authors' generator pools each column before it). Table 1 of the paper gives its CIFAR network 38.6 M parameters;
its description gives 33.7 M, and the counts of table 3 exactly (2.1 M for 20 layers at a quarter of the width, 4.8 M
for 40), so the description was followed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgecnn.pytorch.models._parts import initialize_he

LOCAL_DROP = 0.15  # the paper's rate for a single input of a join


class ConvBN(nn.Module):
    """3x3 convolution, BN, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


def _weights(columns: Sequence[int], chosen: int | None) -> list[float]:
    """Drop-path for one join and one batch: the weight of each column that arrives, together 1, 0 where dropped.

    `chosen` is the one column of a globally sampled batch: it alone counts at its joins, and nothing that lacks it is
    read in the end. None means local sampling: each input is dropped with `LOCAL_DROP`; if all would be, one stays,
    drawn evenly.
    """
    if chosen is not None:
        kept = torch.tensor([column == chosen or chosen not in columns for column in columns])
    else:
        kept = torch.rand(len(columns)) >= LOCAL_DROP
        if not kept.any():
            kept[torch.randint(len(columns), ())] = True
    return (kept / kept.sum()).tolist()


def _join(inputs: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Mean of the inputs of a join; weighted, where drop-path says so."""
    if len(inputs) == 1:
        return inputs[0]
    if weights is None:
        return sum(inputs[1:], inputs[0]) * (1 / len(inputs))
    return sum((x * weight for x, weight in zip(inputs[1:], weights[1:], strict=True)), inputs[0] * weights[0])


class FractalBlock(nn.Module):
    """f_C, unrolled: column c (0 is the deepest) convolves once in 2^c steps, and the columns that finish a
    convolution at the same step meet in a join."""

    def __init__(self, columns: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depth = 2 ** (columns - 1)
        self.columns = nn.ModuleList(
            nn.ModuleList(ConvBN(outputs if k else inputs, outputs) for k in range(self.depth >> column))
            for column in range(columns)
        )

    def forward(self, x: Tensor, chosen: int | None = None) -> Tensor:
        """In train mode drop-path samples, the column `chosen` or (None) locally; in eval mode all columns answer."""
        states = [x] * len(self.columns)
        for step in range(1, self.depth + 1):
            arriving = [column for column in range(len(self.columns)) if step % 2**column == 0]
            outputs = [self.columns[c].get_submodule(str((step >> c) - 1))(states[c]) for c in arriving]
            joined = _join(outputs, _weights(arriving, chosen) if self.training else None)
            for column in arriving:
                states[column] = joined
        return joined


class FractalNet(nn.Module):
    """`stem` -> blocks, a 2x2 max pooling between two -> `pool` -> classes.

    `dropout` holds the rate behind each block; the paper's are 0 to 40 % on CIFAR, none on ImageNet.
    """

    head_names = ("prediction",)

    def __init__(
        self,
        columns: int,
        stem: nn.Sequential,
        stem_width: int,
        widths: Sequence[int],
        dropout: Sequence[float],
        pool: nn.Module,
        classes: int,
    ) -> None:
        super().__init__()
        self.columns = columns
        blocks = [FractalBlock(columns, *pair) for pair in zip([stem_width, *widths], widths, strict=False)]
        self.stage_names = (
            *(("stem",) if len(stem) else ()),
            *(f"blocks.{index}" for index in range(len(blocks))),
        )
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in dropout)
        self.downsample = nn.MaxPool2d(2)
        self.pool = pool
        self.prediction = nn.Linear(widths[-1], classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        chosen = None
        if self.training and torch.rand(()) < 0.5:
            chosen = int(torch.randint(self.columns, ()))
        x = self.stem(x)
        for index, (block, dropout) in enumerate(zip(self.blocks, self.dropouts, strict=True)):
            x = dropout(block(self.downsample(x) if index else x, chosen))
        out: Tensor = self.prediction(self.pool(x).flatten(1))
        return out


def _cifar(columns: int, width: int, classes: int) -> FractalNet:
    """[N, 3, 32, 32] -> five blocks of 32, 16, 8, 4 and 2 squared -> a last 2x2 pooling -> classes."""
    widths = (width, 2 * width, 4 * width, 8 * width, 8 * width)
    return FractalNet(columns, nn.Sequential(), 3, widths, (0, 0.1, 0.2, 0.3, 0.4), nn.MaxPool2d(2), classes)


def fractalnet_cifar(classes: int = 10) -> FractalNet:
    """Three columns, 20 layers and the prediction: in the paper 4.60 % error on CIFAR-10 with augmentation, drop-path
    and dropout."""
    return _cifar(3, 64, classes)


def fractalnet34(classes: int = 1000) -> FractalNet:
    """Stem and prediction of ResNet-34, four blocks of four columns in between: in the paper 24.12 % top-1 and 7.39 %
    top-5 error with ten crops, where ResNet-34 has 24.19 and 7.40."""
    stem = nn.Sequential()
    stem.add_module("conv", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
    stem.add_module("bn", nn.BatchNorm2d(64))
    stem.add_module("relu", nn.ReLU())
    stem.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    return FractalNet(4, stem, 64, (128, 256, 512, 1024), (0, 0, 0, 0), nn.AdaptiveAvgPool2d(1), classes)
