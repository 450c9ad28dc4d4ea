"""NASNet-A: Zoph, Vasudevan, Shlens, Le, "Learning transferable architectures for scalable image recognition", 2017.

A search found two cells on CIFAR-10; ImageNet networks stack them. Every cell reads the outputs of the *two* cells
before it, forms five sums of two operations each (separable convolutions of 3, 5 and 7 pixels, poolings, identity),
and concatenates the sums that nothing else reads. A normal cell keeps the map, a reduction cell halves it.

Keys and arithmetic are timm's `nasnetalarge` (ported from the authors' TensorFlow weights); the paper's auxiliary head
and scheduled drop-path, which serve training alone, are left out as there. TensorFlow's "same" padding gives the odd
pixel to the right and the bottom, which depends on the parity of the map: see `SameConv`. As in timm, and unlike
TensorFlow, a strided average pool counts the border as zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.pytorch.models._parts import initialize_he


def _border(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding before and after `size` pixels, for ceil(size / stride) outputs."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv(nn.Conv2d):
    """A convolution with "same" padding: inside the convolution where it is symmetric, an explicit pad where not."""

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = _border(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = _border(x.shape[-1], self.kernel_size[1], self.stride[1])
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)


class SameMaxPool(nn.Module):
    """3x3 by 2, "same": in an even map the last window hangs over the edge, which is what `ceil_mode` means."""

    kernel_size, stride = 3, 2

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, (x.shape[-2] % 2, x.shape[-1] % 2), ceil_mode=True)


class SameAvgPool(nn.Module):
    """3x3 by 2, "same", the border counted as zeros."""

    kernel_size, stride = 3, 2

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = _border(x.shape[-2], 3, 2)
        left, right = _border(x.shape[-1], 3, 2)
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        return F.avg_pool2d(x, 3, 2, (top, left))


def _average() -> nn.AvgPool2d:
    """3x3 by 1, the border left out of the mean."""
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Squeeze(nn.Module):
    """ReLU, 1x1 convolution, BN: brings an input to the width of the cell."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(self.act(x)))
        return out


class Separable(nn.Module):
    """Depthwise `kernel` x `kernel`, then 1x1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.depthwise_conv2d = SameConv(inputs, inputs, kernel, stride, groups=inputs, bias=False)
        self.pointwise_conv2d = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv2d(self.depthwise_conv2d(x))
        return out


class TwiceSeparable(nn.Module):
    """The cells' "sep": ReLU, separable, BN, twice; only the first strides. It widens in its second half, in the stem
    (`widen_first`) in its first."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, widen_first: bool = False) -> None:
        super().__init__()
        middle = outputs if widen_first else inputs
        self.act_1 = nn.ReLU()
        self.separable_1 = Separable(inputs, middle, kernel, stride)
        self.bn_sep_1 = _norm(middle)
        self.act_2 = nn.ReLU()
        self.separable_2 = Separable(middle, outputs, kernel, 1)
        self.bn_sep_2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_sep_1(self.separable_1(self.act_1(x)))
        out: Tensor = self.bn_sep_2(self.separable_2(self.act_2(x)))
        return out


class Cell(nn.Module):
    """Brings the last output `x` and the earlier one to `width` channels and one size, then combines them.

    The earlier one is squeezed like the last; or, where it is twice as large, halved (`fit="halve"`): one half of the
    channels reads the even pixels, the other half the odd ones, so that none is lost. The stem takes it "raw".
    """

    def __init__(self, inputs: int, earlier: int, width: int, fit: str) -> None:
        super().__init__()
        self.fit = fit
        self.conv_1x1 = Squeeze(inputs, width)
        if fit == "squeeze":
            self.conv_prev_1x1 = Squeeze(earlier, width)
        elif fit == "halve":
            self.act = nn.ReLU()
            self.path_1 = nn.Sequential()
            self.path_1.add_module("conv", nn.Conv2d(earlier, width // 2, 1, 2, bias=False))
            self.path_2 = nn.Sequential()
            self.path_2.add_module("conv", nn.Conv2d(earlier, width // 2, 1, 2, padding=1, bias=False))
            self.final_path_bn = _norm(width)

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        if self.fit == "squeeze":
            earlier = self.conv_prev_1x1(earlier)
        elif self.fit == "halve":
            earlier = self.act(earlier)
            odd = self.path_2(earlier)[:, :, 1:, 1:]  # its padding gave a row and a column too many in front
            earlier = self.final_path_bn(torch.cat([self.path_1(earlier), odd], 1))
        return self.combine(self.conv_1x1(x), earlier)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """The searched part: `a` is the last output, `b` the earlier one."""
        raise NotImplementedError


class NormalCell(Cell):
    """Five sums at one size, all six maps concatenated: 6 * width channels."""

    def __init__(self, inputs: int, earlier: int, width: int, fit: str = "squeeze") -> None:
        super().__init__(inputs, earlier, width, fit)
        self.comb_iter_0_left = TwiceSeparable(width, width, 5)
        self.comb_iter_0_right = TwiceSeparable(width, width, 3)
        self.comb_iter_1_left = TwiceSeparable(width, width, 5)
        self.comb_iter_1_right = TwiceSeparable(width, width, 3)
        self.comb_iter_2_left = _average()
        self.comb_iter_3 = _average()
        self.comb_iter_4_left = TwiceSeparable(width, width, 3)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        average = self.comb_iter_3(b)  # the search chose the same operation twice
        sums = [
            self.comb_iter_0_left(a) + self.comb_iter_0_right(b),
            self.comb_iter_1_left(b) + self.comb_iter_1_right(b),
            self.comb_iter_2_left(a) + b,
            average + average,
            self.comb_iter_4_left(a) + a,
        ]
        return torch.cat([b, *sums], 1)


class ReductionCell(Cell):
    """Five sums at half the size; the first is read again by the last two, so four are concatenated: 4 * width."""

    def __init__(self, inputs: int, earlier: int, width: int, fit: str = "squeeze") -> None:
        super().__init__(inputs, earlier, width, fit)
        raw = fit == "raw"
        second = earlier if raw else width
        self.comb_iter_0_left = TwiceSeparable(width, width, 5, 2)
        self.comb_iter_0_right = TwiceSeparable(second, width, 7, 2, widen_first=raw)
        self.comb_iter_1_left = SameMaxPool()
        self.comb_iter_1_right = TwiceSeparable(second, width, 7, 2, widen_first=raw)
        self.comb_iter_2_left = SameAvgPool()
        self.comb_iter_2_right = TwiceSeparable(second, width, 5, 2, widen_first=raw)
        self.comb_iter_3_right = _average()
        self.comb_iter_4_left = TwiceSeparable(width, width, 3)
        self.comb_iter_4_right = SameMaxPool()

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        first = self.comb_iter_0_left(a) + self.comb_iter_0_right(b)
        second = self.comb_iter_1_left(a) + self.comb_iter_1_right(b)
        third = self.comb_iter_2_left(a) + self.comb_iter_2_right(b)
        fourth = self.comb_iter_3_right(first) + second
        fifth = self.comb_iter_4_left(first) + self.comb_iter_4_right(a)
        return torch.cat([second, third, fourth, fifth], 1)


class Stem(nn.Module):
    """3x3 by 2 without border, BN, no ReLU: every cell begins with its own."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, 3, 2, bias=False)
        self.bn = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class NASNet(nn.Module):
    """Stem, two reduction cells, then three groups of `repeats` normal cells with a reduction cell before the second
    and third: the widths double, the maps halve. The paper calls it NASNet-A (`repeats` @ `features`).

    After a reduction cell the next cell's earlier input is the one before that, or with `skip_reduction` the one that
    the reduction cell itself had as its earlier input (the large network of the authors' code).
    """

    head_names = ("last_linear",)

    def __init__(self, stem: int, features: int, repeats: int, skip_reduction: bool, classes: int) -> None:
        super().__init__()
        width = features // 24
        self.skip_reduction = skip_reduction
        self.conv0 = Stem(stem)
        self.cell_stem_0 = ReductionCell(stem, stem, width // 4, "raw")
        self.cell_stem_1 = ReductionCell(width, stem, width // 2, "halve")
        names = ["conv0", "cell_stem_0", "cell_stem_1"]
        channels, earlier = 2 * width, width
        for group in range(3):
            if group:
                names.append(f"reduction_cell_{group - 1}")
                width *= 2
                self.add_module(names[-1], ReductionCell(channels, earlier, width))
                channels = 4 * width
            for index in range(repeats):
                names.append(f"cell_{6 * group + index}")
                self.add_module(names[-1], NormalCell(channels, earlier, width, "squeeze" if index else "halve"))
                channels, earlier = 6 * width, channels
        self.stage_names = tuple(names)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last_linear = nn.Linear(features, classes)
        initialize_he(self)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.conv0(x)
        earlier = self.cell_stem_0(stem, stem)
        x = self.cell_stem_1(earlier, stem)
        for name in self.stage_names[3:]:
            y = self.get_submodule(name)(x, earlier)
            if not (self.skip_reduction and name.startswith("reduction")):
                earlier = x
            x = y
        out: Tensor = self.last_linear(self.pool(self.act(x)).flatten(1))
        return out


def nasnet_mobile(classes: int = 1000) -> NASNet:
    """NASNet-A (4 @ 1056) at 224 pixels: 5.3 M parameters, 564 M multiply-adds."""
    return NASNet(32, 1056, 4, False, classes)


def nasnet_large(classes: int = 1000) -> NASNet:
    """NASNet-A (6 @ 4032) at 331 pixels: 88.9 M parameters, 23.8 G multiply-adds; timm's nasnetalarge."""
    return NASNet(96, 4032, 6, True, classes)
