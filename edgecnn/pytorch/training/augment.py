"""Augmentation of training images, vectorized over the batch on the device that trains.

Every draw is a hash of (seed, epoch, image, place), so that it depends on nothing else: not on the batch an image falls
into, nor on threads or processes. Where torchvision's transforms v2 has the same operation the two agree (tests hold
them together); v2 draws one set of parameters for a whole batch, or costs a Python call for each image.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from edgecnn.data.preprocess import Preprocessing
from edgecnn.recipe.schema import AugmentSettings

ELASTIC_GRID = 4  # cells of coarse displacements, interpolated to the image
AREA_TRIES, ASPECT = 10, (3 / 4, 4 / 3)
GRAY = (0.2989, 0.587, 0.114)


def key(*parts: int | str) -> int:
    """A 63-bit seed from its parts."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def keyed_uniform(seed: int, ids: Tensor, count: int) -> Tensor:
    """[B, count] numbers in [0, 1), each a function of `seed`, its image's id (int64 [B]) and its place alone.

    SplitMix64 (Steele, Lea, Flood 2014) as a counter-based generator, in wrapping int64 arithmetic.
    """
    z = (ids[:, None] * 4096 + torch.arange(count, device=ids.device)) * _signed(0x9E3779B97F4A7C15) + seed
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 40).to(torch.float32) * 2.0**-24


def keyed_normal(seed: int, ids: Tensor, count: int) -> Tensor:
    """[B, count] standard normal numbers, by Box and Muller."""
    u = keyed_uniform(seed, ids, 2 * count)
    return torch.sqrt(-2 * torch.log1p(-u[:, :count])) * torch.cos(2 * math.pi * u[:, count:])


def crop_image_for_training(
    image: Image.Image, preprocessing: Preprocessing, settings: AugmentSettings, draw: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """The training crop of a picture, uint8 [height, width, channels]: random resized (Szegedy et al. 2015), from a
    jittered scale (Simonyan and Zisserman 2015), or the one that evaluation uses."""
    if settings.area is None and settings.jitter is None:
        return np.asarray(preprocessing.crop_image(image))
    image = preprocessing.convert(image)
    (tall, wide), resample = preprocessing.size, Image.Resampling[preprocessing.interpolation.upper()]
    width, height = image.size
    if settings.area is not None:
        left, top, w, h = _draw_area(width, height, settings.area, draw)
        return np.asarray(image.crop((left, top, left + w, top + h)).resize((wide, tall), resample))
    assert settings.jitter is not None
    low, high = settings.jitter
    short = max(tall, wide, low + int(draw[0] * (high + 1 - low)))
    scale = short / min(width, height)
    image = image.resize((max(wide, round(width * scale)), max(tall, round(height * scale))), resample)
    left, top = int(draw[1] * (image.width - wide + 1)), int(draw[2] * (image.height - tall + 1))
    return np.asarray(image.crop((left, top, left + wide, top + tall)))


def draw_crops(seed: int, ids: Tensor) -> npt.NDArray[np.float32]:
    """What `crop_image_for_training` needs for each of `ids`, [B, draws]."""
    drawn: npt.NDArray[np.float32] = keyed_uniform(key(seed, "crop"), ids, 4 * AREA_TRIES).numpy()
    return drawn


class Augmenter:
    """uint8 [B, C, H, W] -> normalized float32, varied as the settings say, or plainly normalized in evaluation."""

    def __init__(
        self,
        settings: AugmentSettings,
        preprocessing: Preprocessing,
        seed: int,
        device: torch.device,
        components: Tensor | None = None,
    ) -> None:
        self.settings, self.seed = settings, seed
        self.mean = torch.tensor(preprocessing.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=device).view(1, -1, 1, 1)
        self.components = None if components is None else components.to(device)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Scaled to [0, 1] and normalized: the same numbers as `Preprocessing.normalize`."""
        scaled: Tensor = pixels.to(torch.float32) / 255.0
        return (scaled - self.mean) / self.std

    def augment(self, pixels: Tensor, ids: Tensor, epoch: int) -> Tensor:
        """The batch of one training step; `ids` are the images' positions in the data set."""
        s = self.settings

        def draw(name: str, count: int) -> Tensor:
            return keyed_uniform(key(self.seed, epoch, name), ids, count)

        if s.pad or s.mirror:
            pixels = _shift_and_mirror(pixels, s.pad, s.mirror, draw("place", 3))
        x = pixels.to(torch.float32) / 255.0
        if s.rotation_deg or s.shear_deg or s.shift or s.zoom or s.elastic_px:
            field = keyed_normal(key(self.seed, epoch, "elastic"), ids, 2 * ELASTIC_GRID**2) if s.elastic_px else None
            x = _warp(x, s, draw("affine", 6), field)
        if s.color:
            # The draw keeps its old name: another one would vary every image otherwise than before.
            x = jitter_color(x, 1 + s.color * (2 * draw("colour", 3) - 1))
        if self.components is not None and s.pca_color:
            strength = s.pca_color * keyed_normal(key(self.seed, epoch, "pca"), ids, 3)
            x = x + (strength @ self.components)[:, :, None, None]
        x = (x - self.mean) / self.std
        return _erase(x, s.erase, draw("erase", 5)) if s.erase else x


def color_components(pixels: Tensor) -> Tensor:
    """[3, 3]: the principal components of the RGB values of uint8 images [N, 3, H, W] as rows, each times its
    eigenvalue, in units of [0, 1] (Krizhevsky et al. 2012, section 4.1)."""
    flat = pixels.to(torch.float64).permute(1, 0, 2, 3).reshape(3, -1) / 255.0
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    components: Tensor = (vectors * values).T.to(torch.float32)
    return components


def jitter_color(x: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of [0, 1] images, one factor of each per image ([B, 3]); in that order."""
    f = factors[:, :, None, None, None]
    weights = torch.tensor(GRAY, device=x.device).view(1, 3, 1, 1)
    x = (x * f[:, 0]).clamp(0, 1)
    gray = (x * weights).sum(1, keepdim=True) if x.shape[1] == 3 else x
    x = torch.lerp(gray.mean((1, 2, 3), keepdim=True), x, f[:, 1]).clamp(0, 1)
    if x.shape[1] == 1:
        return x
    return torch.lerp((x * weights).sum(1, keepdim=True), x, f[:, 2]).clamp(0, 1)


def affine_matrices(angle_deg: Tensor, shear_deg: Tensor, zoom: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """[B, 2, 3] for `affine_grid`: shear along x, rotate (clockwise) and scale about the center, then shift by a share
    of the side (to the right, down)."""
    a, s = torch.deg2rad(angle_deg), torch.deg2rad(shear_deg)
    # Output to input: undo the shift, the rotation and scale, the shear.
    cos, sin = torch.cos(a) / zoom, torch.sin(a) / zoom
    rows = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2)
    shear = torch.eye(2, device=a.device).repeat(len(a), 1, 1)
    shear[:, 0, 1] = torch.tan(s)
    linear = shear @ rows
    offset = -(linear @ (2 * torch.stack([shift_x, shift_y], 1))[:, :, None])
    return torch.cat([linear, offset], 2)


def mix_images(x: Tensor, mixup: float, cutmix: float, seed: int) -> tuple[Tensor, Tensor, float]:
    """(mixed batch, partner positions, weight of the first labels): mixup (Zhang et al. 2018) or CutMix (Yun et al.
    2019), each as often as the other where both are on. Partners come from the same batch of the same process."""
    random = np.random.default_rng(seed)
    partners = torch.from_numpy(random.permutation(len(x))).to(x.device)
    use_cutmix = cutmix > 0 and (mixup == 0 or random.random() < 0.5)
    alpha = cutmix if use_cutmix else mixup
    share = float(random.beta(alpha, alpha))
    if not use_cutmix:
        return torch.lerp(x[partners], x, share), partners, share
    height, width = x.shape[-2:]
    h, w = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
    top, left = random.integers(height - h + 1), random.integers(width - w + 1)
    x = x.clone()
    x[:, :, top : top + h, left : left + w] = x[partners, :, top : top + h, left : left + w]
    return x, partners, 1 - h * w / (height * width)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _draw_area(
    width: int, height: int, area: tuple[float, ...], draw: npt.NDArray[np.float32]
) -> tuple[int, int, int, int]:
    """(left, top, width, height) as torchvision's RandomResizedCrop chooses them: ten tries, then the center."""
    for share, aspect, x, y in draw.reshape(-1, 4).tolist():
        wanted = width * height * (area[0] + share * (area[1] - area[0]))
        ratio = math.exp(math.log(ASPECT[0]) + aspect * (math.log(ASPECT[1]) - math.log(ASPECT[0])))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(x * (width - w + 1)), int(y * (height - h + 1)), w, h
    ratio = min(max(width / height, ASPECT[0]), ASPECT[1])
    w, h = (width, round(width / ratio)) if width / height <= ratio else (round(height * ratio), height)
    w, h = min(w, width), min(h, height)
    return (width - w) // 2, (height - h) // 2, w, h


def _shift_and_mirror(pixels: Tensor, pad: int, mirror: bool, draw: Tensor) -> Tensor:
    """A random crop of the padded image, mirrored half of the time, in one gather."""
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, (pad, pad, pad, pad)) if pad else pixels
    top, left = ((draw[:, :2] * (2 * pad + 1)).long()).unbind(1)
    columns = torch.arange(width, device=pixels.device).expand(count, width)
    if mirror:
        columns = torch.where(draw[:, 2:3] < 0.5, width - 1 - columns, columns)
    rows = torch.arange(height, device=pixels.device) + top[:, None]
    images = torch.arange(count, device=pixels.device)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[images, rows[:, :, None], (columns + left[:, None])[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _warp(x: Tensor, s: AugmentSettings, draw: Tensor, field: Tensor | None) -> Tensor:
    """Rotation, shear, zoom and shift, then elastic displacement: coarse normal numbers, interpolated by a cubic
    (Ronneberger et al. 2015, section 3.1). Black outside the image."""
    u = 2 * draw - 1
    theta = affine_matrices(
        s.rotation_deg * u[:, 0], s.shear_deg * u[:, 1], 1 + s.zoom * u[:, 2], s.shift * u[:, 3], s.shift * u[:, 4]
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    if field is not None:
        height, width = x.shape[-2:]
        coarse = field.view(-1, 2, ELASTIC_GRID, ELASTIC_GRID)
        smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        grid = grid + smooth * (2 * s.elastic_px / torch.tensor([width, height], device=x.device))
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _erase(x: Tensor, probability: float, draw: Tensor) -> Tensor:
    """A rectangle of 2 to 33 % of the area, aspect 0.3 to 3.3, set to the mean (Zhong et al. 2020)."""
    height, width = x.shape[-2:]
    area = 0.02 + 0.31 * draw[:, 0]
    aspect = torch.exp(math.log(0.3) + draw[:, 1] * (math.log(3.3) - math.log(0.3)))
    h = (torch.sqrt(area * aspect) * height).clamp(max=height)
    w = (torch.sqrt(area / aspect) * width).clamp(max=width)
    top, left = draw[:, 2] * (height - h), draw[:, 3] * (width - w)
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < (left + w)[:, None])
    hit = (
        inside_rows[:, None, :, None]
        & inside_columns[:, None, None, :]
        & (draw[:, 4] < probability)[:, None, None, None]
    )
    return x.masked_fill(hit, 0.0)
