"""Networks and parts against their papers: counted, drawn and computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn.data.dataset import batches
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.zoo import find_model, imagenet_classes

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from torch import nn

    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.models._parts import ChannelShuffle, GridPool, local_response_norm, rounded_channels
    from edgecnn.pytorch.models.efficientnet import StochasticDepth
    from edgecnn.pytorch.models.resnet_cifar import OptionA
    from edgecnn.pytorch.summary import summarize
    from edgecnn.pytorch.weights import load_checkpoint

pytestmark = pytest.mark.torch


def layer(name: str, path: str) -> Any:
    return next(found for found in summarize(name).layers if found.name == path)


# Whole networks


def test_lenet5_is_that_of_the_drawing() -> None:
    found = {row.name: (row.params, row.output_shape) for row in summarize("lenet5").layers}
    assert found["conv1"] == (6 * (5 * 5 + 1), (6, 28, 28))
    assert found["pool1"] == (0, (6, 14, 14))
    assert found["conv2"] == (16 * (5 * 5 * 6 + 1), (16, 10, 10))
    assert found["pool2"] == (0, (16, 5, 5))
    assert [found[f"fc{n}"][0] for n in (1, 2, 3)] == [401 * 120, 121 * 84, 85 * 10]
    assert summarize("lenet5").params == 61_706


def test_alexnet_layer_by_layer() -> None:
    rows = {row.name: row for row in summarize("alexnet").layers}
    assert rows["conv1"].weights == 11 * 11 * 3 * 96 == 34_848
    assert rows["conv1"].output_shape == (96, 55, 55)
    shapes = [rows[name].output_shape for name in ("norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "pool5")]
    widths, sides = (96, 256, 256, 384, 384, 256, 256), (27, 27, 13, 13, 13, 13, 6)
    assert shapes == [(w, s, s) for w, s in zip(widths, sides, strict=True)]
    assert [rows[f"fc{n}"].params for n in (6, 7, 8)] == [9217 * 4096, 4097 * 4096, 4097 * 1000]
    assert summarize("alexnet").params == 62_378_344
    order = list(rows)
    assert order.index("relu1") < order.index("pool1") < order.index("norm1") < order.index("conv2")


def test_vgg16_layer_by_layer() -> None:
    found = summarize("vgg16")
    weights = [row.weights for row in found.layers if row.weights]
    assert weights == [
        *(1_728, 36_864, 73_728, 147_456, 294_912, 589_824, 589_824, 1_179_648),
        *([2_359_296] * 5),
        *(102_760_448, 16_777_216, 4_096_000),
    ]
    assert found.params == 138_357_544
    assert found.macs == 15_470_264_320
    largest = max(found.layers, key=lambda row: row.activation_bytes)
    assert largest is found.layers[0]
    assert largest.activation_bytes == 4 * 224 * 224 * 64
    assert found.layers[0].activation_bytes > 30 * sum(
        row.activation_bytes for row in found.layers if row.type == "Linear"
    )
    assert sum(row.weights for row in found.layers if row.type == "Linear") > 0.89 * found.weights


def test_zfnet_layer_by_layer() -> None:
    rows = {row.name: row for row in summarize("zfnet").layers}
    names = ("conv1", "norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "pool5")
    assert [rows[name].output_shape for name in names] == [
        *((96, 110, 110), (96, 55, 55), (256, 26, 26), (256, 13, 13)),
        *((512, 13, 13), (1024, 13, 13), (512, 13, 13), (512, 6, 6)),
    ]
    convolutions = [(3, 7, 96), (96, 5, 256), (256, 3, 512), (512, 3, 1024), (1024, 3, 512)]
    assert [rows[f"conv{n}"].params for n in range(1, 6)] == [(i * k * k + 1) * o for i, k, o in convolutions]
    assert rows["fc6"].params == (512 * 6 * 6 + 1) * 4096


def test_nin_layer_by_layer() -> None:
    rows = {row.name: row for row in summarize("nin").layers}
    shapes = [rows[name].output_shape for name in ("mlpconv1.4", "mlpconv2.4", "mlpconv3.4", "mlpconv4.4", "flatten")]
    assert shapes == [(96, 54, 54), (256, 27, 27), (384, 13, 13), (1000, 6, 6), (1000,)]
    small = {row.name: row for row in summarize("nin_cifar").layers}
    shapes = [small[name].output_shape for name in ("mlpconv1.4", "mlpconv2.4", "mlpconv3.4", "flatten")]
    assert shapes == [(96, 32, 32), (192, 16, 16), (10, 8, 8), (10,)]
    layers = [(3, 5, 192), (192, 1, 160), (160, 1, 96), (96, 5, 192), (192, 1, 192), (192, 1, 192), (192, 3, 192)]
    layers += [(192, 1, 192), (192, 1, 10)]
    assert [row.params for row in small.values() if row.params] == [(i * k * k + 1) * o for i, k, o in layers]
    for name in ("nin", "nin_cifar"):
        assert not any(row.type == "Linear" for row in summarize(name).layers)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnets_have_the_papers_parameters(depth: int, millions: float) -> None:
    found = summarize(f"resnet{depth}_cifar")
    digits = 1 if millions >= 1 else 2
    assert round(found.params / 1e6, digits) == millions
    assert sum(row.type in ("Conv2d", "Linear") for row in found.layers) == depth
    stages = [row.output_shape for row in found.layers if row.type == "Conv2d"]
    assert {shape: stages.count(shape) for shape in stages} == {
        (16, 32, 32): (depth - 2) // 3 + 1,
        (32, 16, 16): (depth - 2) // 3,
        (64, 8, 8): (depth - 2) // 3,
    }


def test_a_plain_network_is_the_residual_one_without_its_shortcuts() -> None:
    """Of blocks that give 0, a shortcut lets the image through and a plain network nothing."""
    plain, residual = build_model("plain20_cifar").eval(), build_model("resnet20_cifar").eval()
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in residual.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for network in (plain, residual):
            for path, found in network.named_modules():
                if path.endswith("bn2"):
                    found.weight.zero_()
        (a, b), (c, d) = plain(images), residual(images)
    assert torch.equal(a, b)
    assert not torch.allclose(c, d, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("lenet5", 5), ("alexnet", 8), ("alexnet_owt", 8), ("zfnet", 8), ("nin", 12), ("nin_cifar", 9), ("googlenet", 22)]
    + [(f"vgg{n}{bn}", n) for n in (11, 13, 16, 19) for bn in ("", "_bn")]
    + [(f"resnet{n}", n) for n in (18, 34, 50, 101, 152)]
    + [(f"resnet{n}_cifar", n) for n in (20, 32, 44, 56, 110)]
    + [("plain20_cifar", 20)]
    + [("wide_resnet50_2", 50), ("resnext101_32x8d", 101), ("mobilenet_v1", 28)]
    + [(f"densenet{n}", n) for n in (121, 161, 169, 201)],
)
def test_depth_is_that_of_the_name(name: str, depth: int) -> None:
    assert summarize(name).weight_layers == find_model(name).weight_layers == depth


@pytest.mark.parametrize(
    ("name", "params", "macs"),  # the MobileNet paper's tables 6 and 8, in millions
    [("mobilenet_v1", 4.2, 569), ("mobilenet_v1_x0_75", 2.6, 325), ("mobilenet_v1_x0_5", 1.3, 149)]
    + [("mobilenet_v1_x0_25", 0.5, 41)],
)
def test_mobilenet_v1_widths_cost_what_the_paper_says(name: str, params: float, macs: float) -> None:
    found = summarize(name)
    assert round(found.params / 1e6, 1) == params
    assert found.macs / 1e6 == pytest.approx(macs, abs=1)


# Parts, in numpy


def test_lrn_is_the_papers_sum_over_neighbouring_channels() -> None:
    """b_i = a_i / (2 + 1e-4 * sum of a_j^2 over |i - j| <= 2) ^ 0.75; alpha is not divided by 5, as torch's is."""
    x = np.random.default_rng(0).normal(0, 60, (2, 7, 3, 4)).astype(np.float32)
    expected = np.empty_like(x)
    for i in range(7):
        squares = (x[:, max(0, i - 2) : i + 3].astype(np.float64) ** 2).sum(1)
        expected[:, i] = x[:, i] / (2 + 1e-4 * squares) ** 0.75
    np.testing.assert_allclose(local_response_norm()(torch.from_numpy(x)), expected, rtol=1e-5)


def test_option_a_is_every_second_pixel_between_zeros() -> None:
    x = np.arange(2 * 4 * 6 * 6, dtype=np.float32).reshape(2, 4, 6, 6) + 1
    expected = np.zeros((2, 8, 3, 3), np.float32)
    for channel in range(4):
        for row in range(3):
            for column in range(3):
                expected[:, 2 + channel, row, column] = x[:, channel, 2 * row, 2 * column]
    np.testing.assert_array_equal(OptionA(4)(torch.from_numpy(x)), expected)


def test_channel_shuffle_deals_the_groups_out() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert ChannelShuffle(6, 2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert ChannelShuffle(6, 3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_grid_pooling_leaves_a_map_of_the_right_size_alone() -> None:
    x = torch.randn(1, 2, 6, 6)
    assert GridPool(6)(x) is x
    torch.testing.assert_close(GridPool(3)(x), x.reshape(1, 2, 3, 2, 3, 2).mean((3, 5)))


def test_scaled_widths_are_multiples_of_eight_and_never_a_tenth_too_small() -> None:
    assert [rounded_channels(w) for w in (4, 12, 18, 22.5, 24, 35, 67.2)] == [8, 16, 24, 24, 24, 32, 64]
    assert all(rounded_channels(w) >= 0.9 * w for w in range(1, 500))


def test_stochastic_depth_drops_images_in_training_alone() -> None:
    torch.manual_seed(0)
    part, x = StochasticDepth(0.25), torch.ones(4000, 1, 2, 2)
    y = part(x)
    dropped = (y == 0).all(3).all(2).all(1)
    assert torch.all(dropped | (y == 1 / 0.75).all(3).all(2).all(1))
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert part.eval()(x) is x


# Initialisation


def test_residual_networks_start_as_he_says() -> None:
    torch.manual_seed(0)
    model = build_model("resnet34")
    for path, found in model.named_modules():
        if isinstance(found, nn.Conv2d):
            fan_out = found.out_channels * found.kernel_size[0] * found.kernel_size[1]
            assert float(found.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), path
        elif isinstance(found, nn.BatchNorm2d):
            assert bool((found.weight == 1).all()), path
            assert bool((found.bias == 0).all()), path


def test_alexnet_starts_as_its_paper_says() -> None:
    torch.manual_seed(0)
    model = build_model("alexnet")
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for path, found in model.named_children():
        if isinstance(found, nn.Conv2d | nn.Linear):
            assert float(found.weight.detach().std()) == pytest.approx(0.01, rel=0.02), path
            assert set(found.bias.tolist()) == {1.0 if path in ones else 0.0}, path


# Trained weights on real images


def _accuracy_pct(model: nn.Module, source: str, every: int, **classes: Any) -> float:
    card = find_model("resnet20_cifar" if source.startswith("cifar10") else "squeezenet1_1")
    data = open_dataset(source, preprocessing_from_json(card.preprocessing), "test", **classes)
    hits = total = 0
    with torch.no_grad():
        for batch in batches(data.subset(range(0, len(data), every)), 100):
            hits += int((model(torch.from_numpy(batch.input)).argmax(1).numpy() == batch.label).sum())
            total += len(batch.label)
    assert total == len(range(0, len(data), every))
    return 100 * hits / total


def _resnet20(shared: Path) -> nn.Module:
    model = build_model("resnet20_cifar").eval()
    load_checkpoint(shared / "weights" / "resnet20_cifar10jpeg.safetensors", model)
    return model


def test_a_trained_resnet20_classifies_one_image_in_twenty(shared: Path) -> None:
    source = f"cifar10:{shared / 'data' / 'cifar10-jpeg'}"
    assert _accuracy_pct(_resnet20(shared), source, every=20) == pytest.approx(87.86, abs=4)


@pytest.mark.slow
def test_a_trained_resnet20_scores_what_it_is_known_for(shared: Path) -> None:
    source = f"cifar10:{shared / 'data' / 'cifar10-jpeg'}"
    assert _accuracy_pct(_resnet20(shared), source, every=1) == pytest.approx(87.86, abs=0.1)


@pytest.mark.slow
def test_a_trained_squeezenet_scores_what_it_is_known_for(shared: Path) -> None:
    model = build_model("squeezenet1_1").eval()
    load_checkpoint(shared / "weights" / "squeezenet1_1_imagenet.safetensors", model)
    names, wnids = imagenet_classes()
    source = str(shared / "data" / "imagenet-500")
    assert _accuracy_pct(model, source, every=1, labels=names, wnids=wnids) == pytest.approx(65, abs=3)
