"""Augmentation: keyed by image, and equal to torchvision's where torchvision has the same operation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.preprocess import Preprocessing
from edgecnn.recipe.schema import AugmentSettings

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional as V

    from edgecnn.pytorch.training.augment import (
        Augmenter,
        affine_matrices,
        color_components,
        crop_image_for_training,
        draw_crops,
        jitter_color,
        keyed_normal,
        keyed_uniform,
        mix_images,
    )

pytestmark = pytest.mark.torch

RGB = Preprocessing(resize=36, crop=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
EVERYTHING = AugmentSettings(
    mirror=True,
    pad=3,
    rotation_deg=15,
    shear_deg=10,
    shift=0.1,
    zoom=0.1,
    elastic_px=1.0,
    color=0.3,
    pca_color=0.1,
    erase=0.5,
)


def pictures(count: int, size: int = 32) -> torch.Tensor:
    """Smooth coloured images, so that interpolation has something to agree about."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def augmenter(settings: AugmentSettings, seed: int = 0) -> Augmenter:
    return Augmenter(settings, RGB, seed, torch.device("cpu"), color_components(pictures(8)))


def test_keyed_numbers_are_uniform_and_independent() -> None:
    u = keyed_uniform(123, torch.arange(20_000), 8).double()
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean(0) == pytest.approx(torch.full((8,), 0.5), abs=4 / math.sqrt(12 * 20_000))
    counts = torch.histc(u.flatten(), 64, 0, 1)
    expected = u.numel() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 5 * math.sqrt(126)  # chi-square, five sigma
    correlation = torch.corrcoef(torch.cat([u.T, u[1:].T[:, :1].expand(8, len(u))])[:8]) - torch.eye(8)
    assert correlation.abs().max() < 5 / math.sqrt(20_000)
    along = torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1]
    assert abs(along) < 5 / math.sqrt(20_000)
    n = keyed_normal(7, torch.arange(20_000), 4).double()
    assert float(n.std()) == pytest.approx(1, abs=0.02)
    assert float((n**4).mean()) == pytest.approx(3, abs=0.2)


def test_an_image_is_varied_by_itself_its_epoch_and_the_seed_alone() -> None:
    images, ids = pictures(12), torch.arange(12) + 100
    whole = augmenter(EVERYTHING).augment(images, ids, 3)
    order = torch.tensor([7, 2, 11])
    assert torch.equal(augmenter(EVERYTHING).augment(images[order], ids[order], 3), whole[order])
    assert not torch.equal(augmenter(EVERYTHING).augment(images, ids, 4), whole)
    assert not torch.equal(augmenter(EVERYTHING, seed=1).augment(images, ids, 3), whole)


def test_without_settings_it_is_the_evaluation_transform() -> None:
    images = pictures(3)
    plain = augmenter(AugmentSettings()).augment(images, torch.arange(3), 0)
    expected = np.stack([RGB.normalize(image.permute(1, 2, 0).numpy()) for image in images])
    np.testing.assert_array_equal(plain.numpy(), expected)


def test_crops_and_mirrors_are_windows_of_the_padded_image() -> None:
    images = torch.randint(1, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    settings = AugmentSettings(mirror=True, pad=4)
    varied = augmenter(settings).augment(images, torch.arange(64), 0)
    windows, plain = set(), augmenter(AugmentSettings()).normalize
    places = [(mirrored, top, left) for mirrored in (False, True) for top in range(9) for left in range(9)]
    for image, got in zip(images, varied, strict=True):
        whole = plain(torch.stack([_window(image, *place) for place in places]))
        found = [place for place, window in zip(places, whole, strict=True) if torch.equal(window, got)]
        assert len(found) == 1
        windows |= set(found)
    assert {w[0] for w in windows} == {False, True}
    assert len({w[1] for w in windows}) > 5


def _window(image: torch.Tensor, mirrored: bool, top: int, left: int) -> torch.Tensor:
    crop = V.pad(image, [4])[:, top : top + 32, left : left + 32]
    return V.horizontal_flip(crop) if mirrored else crop


@pytest.mark.parametrize(
    ("angle", "shear", "zoom", "dx", "dy"),
    [
        (20.0, 0.0, 1.0, 0.0, 0.0),
        (0.0, 15.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 1.2, 0.0, 0.0),
        (-9.0, 0.0, 0.9, 0.125, -0.0625),
    ],
)
def test_affine_is_torchvisions(angle: float, shear: float, zoom: float, dx: float, dy: float) -> None:
    image = pictures(1).float() / 255
    theta = affine_matrices(*(torch.tensor([v]) for v in (angle, shear, zoom, dx, dy)))
    grid = torch.nn.functional.affine_grid(theta, list(image.shape), align_corners=False)
    ours = torch.nn.functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    theirs = V.affine(image, angle, [dx * 32, dy * 32], zoom, [shear, 0.0], interpolation=v2.InterpolationMode.BILINEAR)
    inside = (slice(None), slice(None), slice(8, 24), slice(8, 24))  # its border handling is another
    torch.testing.assert_close(ours[inside], theirs[inside], atol=2e-5, rtol=0)


def test_colour_jitter_is_torchvisions() -> None:
    images = pictures(4).float() / 255
    factors = torch.tensor([[0.7, 1.2, 0.5], [1.3, 0.8, 1.4], [1.0, 1.0, 1.0], [0.6, 1.4, 0.0]])
    ours = jitter_color(images, factors)
    for image, (b, c, s), got in zip(images, factors.tolist(), ours, strict=True):
        theirs = V.adjust_saturation(V.adjust_contrast(V.adjust_brightness(image, b), c), s)
        torch.testing.assert_close(got, theirs, atol=1e-3, rtol=0)  # its grey weights end one digit earlier


def test_pca_colour_adds_multiples_of_the_components() -> None:
    images = pictures(16)
    components = color_components(images)
    flat = (images.double() / 255).permute(1, 0, 2, 3).reshape(3, -1).numpy()
    values = np.linalg.eigvalsh(np.cov(flat))
    np.testing.assert_allclose(np.linalg.norm(components.numpy(), axis=1), values, rtol=1e-4)
    varied = Augmenter(AugmentSettings(pca_color=0.1), RGB, 0, torch.device("cpu"), components).augment(
        images, torch.arange(16), 0
    )
    std = torch.tensor(RGB.std).view(1, 3, 1, 1)
    moved = (varied - augmenter(AugmentSettings()).normalize(images)) * std
    assert float(moved.std((2, 3)).max()) < 1e-6  # one colour for the whole image
    weights = torch.linalg.solve(components.T.double(), moved.mean((2, 3)).T.double())
    assert float(weights.std()) == pytest.approx(0.1, abs=0.04)


def test_elastic_warping_moves_pixels_by_about_its_setting() -> None:
    ramp = torch.arange(64).repeat(64, 1).expand(200, 3, 64, 64).to(torch.uint8) * 4
    rgb = Preprocessing(resize=64, crop=64, mean=(0.0,) * 3, std=(1.0,) * 3)
    varied = Augmenter(AugmentSettings(elastic_px=2.0), rgb, 0, torch.device("cpu")).augment(ramp, torch.arange(200), 0)
    moved = (varied - ramp.float() / 255)[:, :, 16:48, 16:48] * 255 / 4  # in pixels
    assert 1.0 < float(moved.std()) < 2.2
    assert float((moved[..., 1:] - moved[..., :-1]).abs().max()) < 1.0  # smooth


def test_random_areas_cover_what_they_should() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    draws = draw_crops(5, torch.arange(300))
    crops = [crop_image_for_training(image, RGB, AugmentSettings(area=(0.1, 1.0)), d) for d in draws]
    assert {c.shape for c in crops} == {(32, 32, 3)}
    assert len({c.tobytes() for c in crops}) == 300
    again = crop_image_for_training(image, RGB, AugmentSettings(area=(0.1, 1.0)), draw_crops(5, torch.tensor([17]))[0])
    np.testing.assert_array_equal(again, crops[17])
    whole = crop_image_for_training(image, RGB, AugmentSettings(area=(1.0, 1.0)), draws[0])  # impossible: the center
    np.testing.assert_array_equal(whole, np.asarray(image.crop((5, 0, 85, 60)).resize((32, 32), 2)))
    jittered = [crop_image_for_training(image, RGB, AugmentSettings(jitter=(32, 80)), d) for d in draws[:50]]
    assert {c.shape for c in jittered} == {(32, 32, 3)}
    assert len({c.tobytes() for c in jittered}) == 50


def test_mixed_batches_keep_their_share() -> None:
    x = torch.rand(8, 3, 32, 32)
    for seed in range(30):
        got, partners, share = mix_images(x, 0.4, 0.0, seed)
        torch.testing.assert_close(got, share * x + (1 - share) * x[partners])
        got, partners, share = mix_images(x, 0.0, 1.0, seed)
        moved = partners != torch.arange(8)
        own = (got == x).all(1).float().mean((1, 2))[moved]
        torch.testing.assert_close(own, torch.full_like(own, share), atol=1e-6, rtol=0)
    assert torch.equal(mix_images(x, 0.4, 1.0, 3)[0], mix_images(x, 0.4, 1.0, 3)[0])


def test_erasing_sets_a_rectangle_to_the_mean() -> None:
    images = torch.full((400, 3, 32, 32), 255, dtype=torch.uint8)
    got = augmenter(AugmentSettings(erase=0.5)).augment(images, torch.arange(400), 0)
    erased = (got == 0).all(1)
    share = erased.float().mean((1, 2))
    assert 0.4 < float((share > 0).float().mean()) < 0.6
    assert float(share.max()) < 0.4
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(erased.sum((1, 2)), rows * columns)


def test_erased_rectangles_have_the_papers_area_and_aspect_and_lie_anywhere() -> None:
    """2 to 33 % of the area, aspects of 0.3 to 3.3, spread evenly over their logarithm; all four corners alike."""
    images = torch.full((2000, 3, 64, 64), 255, dtype=torch.uint8)
    erased = (augmenter(AugmentSettings(erase=1.0)).augment(images, torch.arange(2000), 0) == 0).all(1)
    height, width = erased.any(2).sum(1).double(), erased.any(1).sum(1).double()
    inner = (height < 63) & (width < 63)  # those that the border did not cut
    share, aspect = (height * width / 64**2)[inner], torch.log(height / width)[inner]
    assert 0.01 < float(share.min()) < 0.04
    assert 0.29 < float(share.max()) < 0.36
    assert float(share.mean()) == pytest.approx(0.16, abs=0.02)
    assert float(aspect.min()) > math.log(0.3) - 0.25
    assert float(aspect.max()) < math.log(3.3) + 0.25
    assert abs(float(aspect.mean())) < 0.06
    hits = erased.double().mean(0)
    corners = torch.stack([c.mean() for c in (hits[:16, :16], hits[:16, -16:], hits[-16:, :16], hits[-16:, -16:])])
    assert float(corners.min()) > 0.05
    assert float(corners.max()) < 1.25 * float(corners.min())


def test_colour_jitter_stays_within_its_setting() -> None:
    """Contrast and saturation leave an even grey as it is; what is left is brightness."""
    grey = torch.full((1000, 3, 4, 4), 100, dtype=torch.uint8)
    made = augmenter(AugmentSettings(color=0.25))
    factor = (made.augment(grey, torch.arange(1000), 0) * made.std + made.mean)[:, 0, 0, 0] * 255 / 100
    assert 0.75 - 1e-4 <= float(factor.min()) < 0.76
    assert 1.24 < float(factor.max()) <= 1.25 + 1e-4
    assert float(factor.mean()) == pytest.approx(1, abs=0.02)
