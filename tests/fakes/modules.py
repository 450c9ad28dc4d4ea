"""Modules that tests export, compare or put in a network's place."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """`body`, then a linear head."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Block(nn.Module):
    """A residual block with in-place ReLU used twice and in-place addition, as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class Everything(nn.Module):
    """Each operator that a network of the zoo may use and that the blocks above do not."""

    def __init__(self) -> None:
        super().__init__()
        self.lrn, self.prelu = nn.LocalResponseNorm(5, alpha=0.1, k=2.0), nn.LeakyReLU(0.1)
        self.hs, self.hsig, self.silu, self.six = nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(inplace=True), nn.ReLU6()
        self.asym = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.same = nn.Conv2d(8, 8, (3, 5), padding="same", dilation=2)
        self.drop, self.fc1, self.fc2 = nn.Dropout(0.5), nn.Linear(8, 2), nn.Linear(2, 8)
        self.pool = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x[:, :, ::1, ::1], (0, 0, 0, 0, 2, 3))  # [N, 8, 32, 32]
        x = self.lrn(x + 0.3)
        x = self.hs(x) + self.hsig(x) - self.six(x) * self.prelu(x)
        x = self.silu(x) / 2
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        a, b = x.chunk(2, 1)
        c1, c2 = b.split([1, 3], dim=1)
        x = torch.cat([torch.cat([a], 1), torch.tanh(c1), torch.sigmoid(c2)], 1)
        x = self.asym(F.pad(x, (0, 1, 0, 1)))  # TensorFlow's "same" at stride 2
        x = self.same(x)
        scale = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1).flatten(1)))).sigmoid()
        x = x * scale.unsqueeze(-1).unsqueeze(-1)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) + self.pool(x)[:, :, :8, -8:]
        x = F.avg_pool2d(x[:, :, ::2, 1::2], 3, stride=1, padding=1)
        x = x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).clamp(-1, 2)
        return self.drop(F.adaptive_avg_pool2d(x, 2)).reshape(n, -1)[:, :4]


class NASNetMobileOfTimm(nn.Module):
    """timm's cells in the arrangement of NASNet-A (4 @ 1056), written out."""

    def __init__(self) -> None:
        super().__init__()
        whole = timm.models.nasnet.NASNetALarge(stem_size=32, num_features=1056)
        for name, child in whole.named_children():
            if name not in {f"cell_{index}" for index in (4, 5, 10, 11, 16, 17)}:
                self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.conv0(x)
        s0 = self.cell_stem_0(x0)
        s1 = self.cell_stem_1(x0, s0)
        c0 = self.cell_0(s1, s0)
        c1 = self.cell_1(c0, s1)
        c2 = self.cell_2(c1, c0)
        c3 = self.cell_3(c2, c1)
        r0 = self.reduction_cell_0(c3, c2)
        c6 = self.cell_6(r0, c3)
        c7 = self.cell_7(c6, r0)
        c8 = self.cell_8(c7, c6)
        c9 = self.cell_9(c8, c7)
        r1 = self.reduction_cell_1(c9, c8)
        c12 = self.cell_12(r1, c9)
        c13 = self.cell_13(c12, r1)
        c14 = self.cell_14(c13, c12)
        c15 = self.cell_15(c14, c13)
        return self.last_linear(self.global_pool(c15.relu()))


class Affine(nn.Module):
    """A convolution's stand-in whose effect is exact: a * x + b."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a + self.b


class Note(nn.Module):
    """A block's stand-in that notes which column drop-path chose."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: list[int | None] = []

    def forward(self, x: Tensor, chosen: int | None) -> Tensor:
        self.chosen.append(chosen)
        return x
