"""Images made from a network alone: of those that it was trained on, batch normalization kept mean and variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import ModelError
from edgecnn.session import Array

AT_ONCE, RATE = 32, 0.1
BLUR, CONTRAST = 8, 1.2  # pixels; what interpolation takes from the deviation
Progress = Callable[[int, int], None]


def make_images(
    network: nn.Module,
    preprocessing: Preprocessing,
    count: int,
    *,
    steps: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Array:
    """`count` images, normalised float32 [count, C, H, W], that `network` (in eval mode) takes for its training images.

    Smooth noise is moved by so many `steps` of Adam, `AT_ONCE` images together, until mean and standard deviation of
    what goes into each batch normalization are those that it has kept (Y. Cai et al., "ZeroQ", CVPR 2020); pixels stay
    within what a picture can hold. The same for the same `seed`, in one thread. Raises `ModelError` for a network
    without batch normalization.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise ModelError(
            "the network has no batch normalization, and so keeps nothing of the images that it was trained on",
            "calibrate with images: --data",
        )
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    bounds = (-mean / std, (1 - mean) / std)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for first in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - first)
        x = _smooth_noise((size, *preprocessing.input_shape), generator).clamp(*bounds)
        say = None if progress is None else partial(_say, progress, first, size, count, steps)
        made.append(_distill(network, norms, x, bounds, steps, say).numpy())
    return np.concatenate(made)


def _smooth_noise(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """About normal, of blurs `BLUR` pixels wide: made of white noise all images are alike on average over their maps,
    and what a global pool gives is never as large as on pictures."""
    count, channels, *size = shape
    coarse = torch.randn(count, channels, *(max(1, s // BLUR) for s in size), generator=generator)
    return CONTRAST * F.interpolate(coarse, size=size, mode="bicubic")


def _say(progress: Progress, first: int, size: int, count: int, steps: int, step: int) -> None:
    progress(first + size * step // steps, count)


def _distill(
    network: nn.Module,
    norms: list[_BatchNorm],
    x: Tensor,
    bounds: tuple[Tensor, Tensor],
    steps: int,
    say: Callable[[int], None] | None,
) -> Tensor:
    apart: list[Tensor] = []

    def compare(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        apart.append(_distance(norm, inputs[0]))

    hooks = [norm.register_forward_pre_hook(compare) for norm in norms]
    x = x.requires_grad_()
    optimizer = torch.optim.Adam([x], RATE)
    try:
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
            apart.clear()
            network(x)
            (x.grad,) = torch.autograd.grad(torch.stack(apart).mean(), [x])
            optimizer.step()
            with torch.no_grad():
                x.copy_(x.clamp(*bounds))
            if say is not None:
                say(step + 1)
    finally:
        for hook in hooks:
            hook.remove()
    return x.detach()


def _distance(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Between the distribution of `x` [N, C, ...] and that kept by `norm`, as a share of the variance behind it: what
    counts is what the layers behind read, so that each channel is weighed by its gain."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    axes = [0, *range(2, x.ndim)]
    gain = (1 if norm.weight is None else norm.weight.square()) / (var + norm.eps)
    moved = (x.mean(axes) - mean).square()
    spread = (x.var(axes, correction=0).clamp_min(1e-12).sqrt() - var.clamp_min(0).sqrt()).square()
    return ((moved + spread) * gain).sum() / (var * gain).sum().clamp_min(1e-12)
