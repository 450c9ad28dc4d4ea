"""Images made from batch normalization alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import ModelError

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch
PREPROCESSING = Preprocessing(resize=8, crop=8, mean=(0.5, 0.4, 0.3), std=(0.25, 0.25, 0.25))


def network() -> torch.nn.Module:
    """Two batch normalizations that saw images of one color, with a pattern in one channel."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
    )
    seen = torch.rand(64, 3, 8, 8) * torch.tensor([0.1, 1.0, 0.02]).view(3, 1, 1) - torch.tensor([1, 0, 0.4]).view(
        3, 1, 1
    )
    for layer in made:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    made(seen)
    return made.eval().requires_grad_(False)


def distances(net: torch.nn.Module, images: np.ndarray) -> float:
    """How far the inputs of its two normalizations are from those they saw, in units of what they saw."""
    import torch

    x, found = torch.from_numpy(images), []
    for layer in net:  # type: ignore[attr-defined]
        if isinstance(layer, torch.nn.BatchNorm2d):
            std = layer.running_var.sqrt()
            found += [(x.mean((0, 2, 3)) - layer.running_mean) / std, x.std((0, 2, 3)) / std - 1]
        x = layer(x)
    return float(torch.cat(found).square().mean())


def test_images_come_near_to_what_batch_normalization_kept() -> None:
    from edgecnn.pytorch.data_free import make_images

    net, shown = network(), list[tuple[int, int]]()
    noise = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    made = make_images(net, PREPROCESSING, 8, steps=20, progress=lambda done, of: shown.append((done, of)))
    assert made.shape == (8, 3, 8, 8)
    assert made.dtype == np.float32
    assert distances(net, made) < 0.1 * distances(net, noise)
    pixels = made * 0.25 + np.array(PREPROCESSING.mean, np.float32).reshape(3, 1, 1)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert len({image.tobytes() for image in made}) == 8
    assert shown[-1] == (8, 8)
    assert not net[1]._forward_pre_hooks  # type: ignore[index]


def test_the_same_images_each_time() -> None:
    from edgecnn.pytorch.data_free import make_images

    first, again = (make_images(network(), PREPROCESSING, 4, steps=3) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    other = make_images(network(), PREPROCESSING, 4, steps=3, seed=1)
    assert first.tobytes() != other.tobytes()


def test_without_batch_normalization_nothing_is_known() -> None:
    from torch import nn

    from edgecnn.pytorch.data_free import make_images

    with pytest.raises(ModelError, match="no batch normalization"):
        make_images(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), PREPROCESSING, 4, steps=2)
