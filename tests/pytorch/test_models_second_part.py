"""The later classic networks against timm, where it has them, else against their papers and numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn.errors import ModelError

if TYPE_CHECKING:  # imported before the first test of this file
    import timm
    import torch
    from torch import nn

    from edgecnn.pytorch.models import fractalnet, variants
    from edgecnn.pytorch.models._parts import ChannelShuffle
    from edgecnn.pytorch.weights import load_checkpoint, randomize
    from tests.fakes.modules import Affine, NASNetMobileOfTimm, Note

pytestmark = pytest.mark.torch


LARGE = pytest.mark.slow
OF_TIMM = [
    pytest.param("preresnet18", "resnetv2_18", 224),
    pytest.param("preresnet50", "resnetv2_50", 224, marks=LARGE),
    pytest.param("preresnet101", "resnetv2_101", 224, marks=LARGE),
    pytest.param("preresnet152", "resnetv2_152", 224, marks=LARGE),
    pytest.param("se_resnext50_32x4d", "legacy_seresnext50_32x4d", 224, marks=LARGE),
    pytest.param("senet154", "legacy_senet154", 224, marks=LARGE),
    pytest.param("inception_v4", "inception_v4", 299, marks=LARGE),
    pytest.param("inception_resnet_v2", "inception_resnet_v2", 299, marks=LARGE),
]


def assert_same_network(ours: nn.Module, theirs: nn.Module, size: int, tolerance: float = 1e-5) -> None:
    """Their seeded weights load into ours unchanged; with BN statistics gathered by each on the same batches, both
    give the same logits."""
    ours.load_state_dict(theirs.state_dict(), strict=True)
    generator, dtype = torch.Generator().manual_seed(1), next(theirs.parameters()).dtype
    batches = [torch.randn(2, 3, size, size, generator=generator, dtype=dtype) for _ in range(2)]
    with torch.no_grad():
        for model in (ours, theirs):
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = None  # a plain mean over the batches
            model.train()
            for batch in batches:
                model(batch)
            model.eval()
        expected, got = theirs(batches[0]), ours(batches[0])
    scale = expected.abs().max()
    assert 1e-3 < scale < 1e3
    assert (expected[0] - expected[1]).abs().max() > 1e-2 * scale
    assert (got - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize(("name", "timm_name", "size"), OF_TIMM)
def test_timms_weights_give_timms_logits(name: str, timm_name: str, size: int) -> None:
    torch.manual_seed(0)
    assert_same_network(variants()[name](), timm.create_model(timm_name), size)


@pytest.mark.slow
def test_preresnet200_is_timms_block_stacked_as_the_paper_says() -> None:
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    torch.manual_seed(0)
    theirs = ResNetV2([3, 24, 36, 3], conv_layer=create_conv2d, norm_layer=BatchNormAct2d)
    assert_same_network(variants()["preresnet200"](), theirs, 224)


@pytest.mark.slow
def test_nasnet_large_is_timms() -> None:
    """In float64: with random weights timm's own float32 logits are 4e-5 of the largest from its float64 ones."""
    torch.manual_seed(0)
    ours, theirs = variants()["nasnet_large"](), timm.create_model("nasnetalarge")
    assert_same_network(ours.double(), theirs.double(), 331, tolerance=1e-12)


def test_wrn28_10_is_timms_block_widened_as_the_paper_says() -> None:
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    torch.manual_seed(0)
    convolutions: dict[str, Any] = {"conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    shape: dict[str, Any] = {"channels": (160, 320, 640), "basic": True, "bottle_ratio": 1.0, "stem_chs": 16}
    theirs = ResNetV2([4, 4, 4], num_classes=10, **shape, **convolutions)
    theirs.stem.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    theirs.stem.pool = nn.Identity()
    assert_same_network(variants()["wrn28_10_cifar"](), theirs, 32)


def test_densenet_bc100_12_is_torchvisions_with_the_stem_of_the_paper() -> None:
    from torchvision.models import DenseNet

    torch.manual_seed(0)
    theirs = DenseNet(12, (16, 16, 16), 24, num_classes=10)
    theirs.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(theirs.features, name, nn.Identity())
    assert_same_network(variants()["densenet_bc100_12_cifar"](), theirs, 32)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(75, "float64"), pytest.param(224, "float32", marks=LARGE)],  # maps of 37, 19, 10, 5, 3 and 111 ... 7
)
def test_nasnet_mobile_is_timms_cells_in_the_arrangement_of_the_paper(size: int, dtype: str) -> None:
    torch.manual_seed(0)
    ours, theirs = (m.to(getattr(torch, dtype)) for m in (variants()["nasnet_mobile"](), NASNetMobileOfTimm()))
    assert_same_network(ours, theirs, size)


def test_the_class_background_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    named, ours = variants()["shufflenet_v1_g3"](1001), variants()["shufflenet_v1_g3"](1000)
    torch.save(named.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="1001 classes"):
        load_checkpoint(tmp_path / "w.pth", ours)
    info = load_checkpoint(tmp_path / "w.pth", ours, background=True)
    assert info.weights_notes == ("the class 'background' was left out",)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), named.eval()(x)[:, 1:])


@pytest.mark.parametrize("name", ["nasnet_mobile", pytest.param("inception_v4", marks=LARGE)])
def test_random_weights_do_not_amplify_rounding(name: str) -> None:
    """Else no float32 comparison of a deep network without shortcuts means anything."""
    model, shape = variants()[name](), (3, 107, 107)
    randomize(model, shape, seed=0)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        single, double = model.eval()(x), model.double()(x.double())
    scale = double.abs().max()
    assert (single - double).abs().max() < 2e-5 * scale
    assert (double[0] - double[1]).abs().max() > 0.05 * scale


# Parameters as the paper (or, where it gives none, the publisher of weights) prints them, in millions.
PRINTED = [
    ("resnet1202_cifar", 19.4),
    ("preresnet18", 11.7),
    ("preresnet200", 64.7),
    ("inception_v4", 42.7),
    ("wrn28_10_cifar", 36.5),
    ("densenet_bc100_12_cifar", 0.8),
    ("se_resnext50_32x4d", 27.6),
    ("senet154", 115.1),
    ("inception_resnet_v2", 55.8),
    ("nasnet_mobile", 5.3),
    ("nasnet_large", 88.8),
    ("shufflenet_v1_g3", 1.9),
]


@pytest.mark.parametrize(("name", "millions"), PRINTED)
def test_parameters_are_those_printed(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = variants()[name]()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


SHAPES: dict[str, tuple[int, Any]] = {
    "preresnet50": (224, {"stem": (64, 56, 56), "stages.0": (256, 56, 56), "stages.3": (2048, 7, 7)}),
    "preresnet200": (224, {"stages.1": (512, 28, 28), "stages.2": (1024, 14, 14), "stages.3": (2048, 7, 7)}),
    "inception_v4": (
        299,
        {"features.5": (384, 35, 35), "features.9": (384, 35, 35), "features.17": (1024, 17, 17)}
        | {"features.21": (1536, 8, 8)},
    ),
    "inception_resnet_v2": (
        299,
        {"mixed_5b": (320, 35, 35), "repeat_1": (1088, 17, 17), "block8": (2080, 8, 8), "conv2d_7b": (1536, 8, 8)},
    ),
    "nasnet_mobile": (
        224,
        {"cell_3": (264, 28, 28), "reduction_cell_0": (352, 14, 14), "cell_9": (528, 14, 14), "cell_15": (1056, 7, 7)},
    ),
    "nasnet_large": (331, {"cell_5": (1008, 42, 42), "cell_11": (2016, 21, 21), "cell_17": (4032, 11, 11)}),
    "shufflenet_v1_g3": (
        224,
        {"maxpool": (24, 56, 56), "stage2": (240, 28, 28), "stage3": (480, 14, 14), "stage4": (960, 7, 7)},
    ),
    "wrn28_10_cifar": (32, {"stages.0": (160, 32, 32), "stages.1": (320, 16, 16), "stages.2": (640, 8, 8)}),
    "densenet_bc100_12_cifar": (
        32,
        {"features.denseblock1": (216, 32, 32), "features.denseblock2": (300, 16, 16)}
        | {"features.denseblock3": (342, 8, 8)},
    ),
    "senet154": (224, {"layer0": (128, 112, 112), "layer1": (256, 56, 56), "layer4": (2048, 7, 7)}),
    "fractalnet_cifar": (
        32,
        {f"blocks.{k}": (w, 32 >> k, 32 >> k) for k, w in enumerate((64, 128, 256, 512, 512))},
    ),
    "fractalnet34": (224, {f"blocks.{k}": (128 << k, 56 >> k, 56 >> k) for k in range(4)}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_stages_have_the_shapes_of_the_paper(name: str) -> None:
    size, expected = SHAPES[name]
    seen: dict[str, tuple[int, ...]] = {}

    def record(stage: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.update({stage: tuple(output.shape[1:])})

    with torch.device("meta"):
        model = variants()[name]().eval()
        for stage in expected:
            model.get_submodule(stage).register_forward_hook(record(stage))
        model(torch.empty(1, 3, size, size))
    assert seen == expected


# ShuffleNet


@pytest.mark.parametrize(("groups", "channels"), [(3, 60), (3, 240), (2, 8), (4, 12)])
def test_channel_shuffle_is_the_transpose_of_the_channel_table(groups: int, channels: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, channels, 5, 3)).astype(np.float32)
    each = channels // groups
    expected = np.empty_like(x)
    for group in range(groups):
        for k in range(each):
            expected[:, k * groups + group] = x[:, group * each + k]
    got = ChannelShuffle(channels, groups)(torch.from_numpy(x)).numpy()
    assert np.array_equal(got, expected)
    assert not np.array_equal(got, x)


def test_shufflenet_v1_lets_every_group_see_every_group() -> None:
    """What the shuffle is for: without it a third of the input of a unit reaches a third of its output alone."""
    torch.manual_seed(0)
    unit = variants()["shufflenet_v1_g3"]().eval().stage2[1]
    x = torch.randn(1, 240, 7, 7)
    moved = x.clone()
    moved[:, :80] += torch.randn(1, 80, 7, 7)
    change = ((unit(moved) - unit(x)).abs().amax(dim=(0, 2, 3)) > 0).reshape(3, 80)
    assert change.any(dim=1).all()


# FractalNet


def fractal_of_affines(columns: int) -> tuple[fractalnet.FractalBlock, list[list[tuple[float, float]]]]:
    block = fractalnet.FractalBlock(columns, 4, 4)
    draw = np.random.default_rng(columns)
    constants = []
    for column in block.columns:
        assert isinstance(column, nn.ModuleList | nn.Sequential)
        pairs = [(float(a), float(b)) for a, b in draw.uniform(0.5, 1.5, (len(column), 2))]
        constants.append(pairs)
        for k, pair in enumerate(pairs):
            column[k] = Affine(*pair)
    return block, constants


def arrivals(z: Any, taken: list[Iterator[tuple[float, float]]]) -> list[Any]:
    """The paper's recursion: what arrives at the last join of f_C(z), deepest column first. Each join is one mean.

    `taken` gives the convolutions of each column of f_C, deepest first, in the order of use.
    """
    a, b = next(taken[-1])
    if len(taken) == 1:
        return [a * z + b]
    middle = np.mean(arrivals(z, taken[:-1]), axis=0)
    return [*arrivals(middle, taken[:-1]), a * z + b]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_fractal_block_is_the_papers_recursion(columns: int) -> None:
    block, constants = fractal_of_affines(columns)
    z = np.random.default_rng(9).standard_normal((2, 4, 3, 3))
    taken = [iter(pairs) for pairs in constants]
    expected = np.mean(arrivals(z, taken), axis=0)
    assert all(next(pairs, None) is None for pairs in taken), "every convolution was used once"
    got = block.eval()(torch.from_numpy(z)).numpy()
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chosen", [0, 1, 2, 3])
def test_global_drop_path_trains_one_column_alone(chosen: int) -> None:
    block, constants = fractal_of_affines(4)
    expected = z = np.random.default_rng(9).standard_normal((2, 4, 3, 3))
    for a, b in constants[chosen]:
        expected = a * expected + b
    got = block.train()(torch.from_numpy(z), chosen).numpy()
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_local_drop_path_drops_at_its_rate_and_keeps_at_least_one() -> None:
    torch.manual_seed(0)
    n, rate = 20_000, fractalnet.LOCAL_DROP
    drawn = np.array([fractalnet._weights([0, 1], None) for _ in range(n)])
    assert np.allclose(drawn.sum(axis=1), 1)
    assert set(np.unique(drawn)) == {0.0, 0.5, 1.0}
    both = (drawn == 0.5).all(axis=1).mean()
    assert both == pytest.approx((1 - rate) ** 2, abs=0.01)
    assert (drawn[:, 0] == 1).mean() == pytest.approx((1 - both) / 2, abs=0.01), "neither column is favoured"


def test_local_drop_path_gives_means_of_what_was_kept() -> None:
    """Every output of a two-column block is one of the three that the paper allows, and all three turn up."""
    block, ((first, second), (short,)) = fractal_of_affines(2)
    z = np.full((1, 4, 1, 1), 0.7)
    deep = second[0] * (first[0] * 0.7 + first[1]) + second[1]
    shallow = short[0] * 0.7 + short[1]
    torch.manual_seed(0)
    got = {round(float(block.train()(torch.from_numpy(z)).mean()), 9) for _ in range(200)}
    assert got == {round(v, 9) for v in (deep, shallow, (deep + shallow) / 2)}


def test_half_of_the_batches_train_one_column_of_the_whole_network() -> None:
    torch.manual_seed(0)
    net = fractalnet.FractalNet(3, nn.Sequential(), 3, (3, 3), (0, 0), nn.AdaptiveAvgPool2d(1), 10).train()
    first, second = net.blocks[0], net.blocks[1] = Note(), Note()
    for _ in range(1000):
        net(torch.zeros(1, 3, 2, 2))
    assert first.chosen == second.chosen
    assert first.chosen.count(None) == pytest.approx(500, abs=60)
    assert all(first.chosen.count(column) == pytest.approx(500 / 3, abs=50) for column in range(3))
    net.eval()(torch.zeros(1, 3, 2, 2))
    assert first.chosen[-1] is None


@pytest.mark.parametrize(
    ("columns", "millions"), [(1, 0.3), (2, 0.8), (3, 2.1), (4, 4.8), (5, 10.2), (6, 21.1)]
)  # table 3 of the paper: 5 to 160 layers, CIFAR-100
def test_fractal_networks_have_the_papers_parameters(columns: int, millions: float) -> None:
    with torch.device("meta"):
        net = fractalnet._cifar(columns, 16, 100)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 5 * (2**columns - 1)


def test_a_fractal_network_answers_as_a_whole_in_eval_mode() -> None:
    torch.manual_seed(0)
    net = variants()["fractalnet_cifar"]()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(net(x), net(x)), "drop-path and dropout are random"
        net.eval()
        assert torch.equal(net(x), net(x))
        assert not torch.allclose(net(x)[0], net(x)[1])
