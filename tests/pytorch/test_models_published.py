"""Each network that torchvision or timm has, against theirs: their weights unchanged, the same logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.zoo import cards

if TYPE_CHECKING:  # imported before the first test of this file
    import timm
    import torch
    import torchvision
    from timm.models.efficientnet import _gen_mobilenet_v1  # timm names no narrower one
    from torch import nn

    from edgecnn.pytorch.models import variants

pytestmark = pytest.mark.torch


OF_TORCHVISION = (
    *("alexnet_owt", "googlenet", "inception_v3"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("squeezenet1_0", "squeezenet1_1", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
)
OF_TIMM: dict[str, Callable[[], nn.Module]] = {
    "se_resnet50": lambda: timm.create_model("legacy_seresnet50", drop_rate=0.0),
    "mobilenet_v1": lambda: timm.create_model("mobilenetv1_100"),
    **{
        f"mobilenet_v1_x0_{digits}": lambda digits=digits: _gen_mobilenet_v1("mobilenetv1_100", float(f"0.{digits}"))
        for digits in ("75", "5", "25")
    },
}
FAST = {
    *("alexnet_owt", "googlenet", "resnet18", "resnext50_32x4d", "densenet121", "squeezenet1_1", "efficientnet_b0"),
    *("mobilenet_v1", "mobilenet_v1_x0_25", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "se_resnet50"),
}
TOLERANCE = 1e-5


def _of_torchvision(name: str) -> nn.Module:
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = getattr(torchvision.models, name.removesuffix("_owt"))(weights=None, **extra)
    return model


def _theirs(name: str) -> nn.Module:
    """Theirs from a fixed seed. Networks without BN are drawn as He et al. 2015 says, for their own defaults shrink
    the signal until only biases are left."""
    torch.manual_seed(0)
    model = OF_TIMM[name]() if name in OF_TIMM else _of_torchvision(name)
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model


def _gather_statistics(model: nn.Module, batches: list[torch.Tensor]) -> None:
    """Train-mode passes; the seed is that of dropout and stochastic depth."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain mean over the batches
    torch.manual_seed(7)
    model.train()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.eval()


def _parameters() -> list[Any]:
    """All at their own size; at once a few on small images of an odd side, where every rounding of a shape shows."""
    names = [*OF_TORCHVISION, *OF_TIMM]
    return [
        *(pytest.param(name, max(97, cards()[name].min_size), id=name) for name in names if name in FAST),
        *(pytest.param(name, cards()[name].input_shape[1], id=f"{name}-own", marks=pytest.mark.slow) for name in names),
    ]


@pytest.mark.parametrize(("name", "side"), _parameters())
def test_their_weights_give_their_logits(name: str, side: int) -> None:
    theirs, ours = _theirs(name), variants()[name]()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(2, 3, side, side, generator=generator) for _ in range(2)]
    for model in (theirs, ours):
        _gather_statistics(model, batches)
    with torch.no_grad():
        expected, found = theirs(batches[0]), ours(batches[0])
    scale = float(expected.abs().max())
    assert 1e-3 < scale < 1e3
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2 * scale
    assert float((found - expected).abs().max()) <= TOLERANCE * scale


@pytest.mark.parametrize(
    ("name", "order"), [("googlenet", (0, 2, 1)), pytest.param("inception_v3", (0, 1), marks=pytest.mark.slow)]
)
def test_auxiliary_heads_are_theirs_and_only_in_training(name: str, order: tuple[int, ...]) -> None:
    """torchvision gives GoogLeNet's later head first."""
    theirs, ours = _theirs(name), variants()[name]()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    batch = torch.randn(2, *cards()[name].input_shape, generator=torch.Generator().manual_seed(1))
    for model in (theirs, ours):
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.eval()
    with torch.no_grad():
        expected, found = theirs(batch), ours(batch)
        assert isinstance(ours.eval()(batch), torch.Tensor)
    assert len(found) == len(expected) == len(order)
    for logits, index in zip(found, order, strict=True):
        assert float((logits - expected[index]).abs().max()) <= TOLERANCE * float(expected[index].abs().max())


def test_every_network_with_published_weights_is_compared() -> None:
    """By this file or by the other proofs, named there."""
    elsewhere = (Path(__file__).parent / "test_models_second_part.py").read_text(encoding="utf-8")
    compared = {*OF_TORCHVISION, *OF_TIMM}
    published = {name for name, card in cards().items() if card.weights is not None}
    assert {name for name in published - compared if f'"{name}"' not in elsewhere} == set()
    assert set(OF_TORCHVISION) <= published


def test_the_published_sha256_is_that_of_the_url() -> None:
    for name, card in cards().items():
        if card.weights is not None and "download.pytorch.org" in card.weights.url:
            digits = card.weights.url.rpartition("-")[2].removesuffix(".pth")
            assert card.weights.sha256.startswith(digits), name
            assert len(card.weights.sha256) >= 8, name


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_the_table_repeats_the_publisher(name: str) -> None:
    card = cards()[name]
    published = torchvision.models.get_model_weights(name.removesuffix("_owt"))
    assert card.weights is not None
    entry = published[card.weights.source.removeprefix("torchvision ")]
    accuracy = entry.meta["_metrics"]["ImageNet-1K"]
    assert card.weights.url == entry.url
    assert (card.top1_pct, card.top5_pct) == (accuracy["acc@1"], accuracy["acc@5"])
    transform = entry.transforms()
    assert (card.preprocessing["resize"], card.preprocessing["crop"]) == (
        transform.resize_size[0],
        transform.crop_size[0],
    )
    assert card.preprocessing["interpolation"] == transform.interpolation.value
    if name not in ("googlenet", "inception_v3"):  # there torchvision re-normalises inside the network
        assert card.preprocessing["mean"] == transform.mean
        assert card.preprocessing["std"] == transform.std
