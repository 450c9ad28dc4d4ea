"""What is read fast is read right: pixel by pixel the plain way with PIL and NumPy, which copies at every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edgecnn.data.dataset import batches
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing, orientation_of
from edgecnn.data.sources.folder import decode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOR = Preprocessing(24, 20, MEAN, STD)
WAYS = {
    "color": COLOR,
    "gray": Preprocessing(24, 20, (0.45,), (0.26,), channels=1),
    "as it is": Preprocessing(30, 30, MEAN, STD),
    "bgr": Preprocessing(24, 20, MEAN, STD, "bicubic", bgr=True),
    "upright": Preprocessing(24, (16, 20), MEAN, STD, exif_orientation=True),
    "squash": Preprocessing(24, (16, 20), MEAN, STD, "nearest", squash=True),
    "nearest": Preprocessing(23, 19, MEAN, STD, "nearest"),
    "larger": Preprocessing(61, (57, 60), MEAN, STD, "lanczos"),
    "wider than the picture": Preprocessing(33, (17, 60), MEAN, STD),
}
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}


def picture(mode: str, seed: int = 0) -> Image.Image:
    """Smooth and sharp parts, 40 x 30."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    made = Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC)
    ImageDraw.Draw(made).rectangle((5, 5, 17, 11), fill=(255, 0, 31))
    return made.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else made.convert(mode)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def save_frames(path: Path, mode: str) -> None:
    picture(mode).save(path, save_all=True, append_images=[picture(mode, 1)])


def saving(mode: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: picture(mode).save(path, **options)


def save_gray_of_sixteen_bits(path: Path) -> None:
    Image.fromarray((np.arange(1200) * 54).astype(np.uint16).reshape(30, 40)).save(path)


KINDS: dict[str, Callable[[Path], None]] = {
    "color.jpg": saving("RGB", quality=90),
    "half.jpg": saving("RGB", subsampling=0),
    "progressive.jpg": saving("RGB", progressive=True),
    "gray.jpg": saving("L"),
    "cmyk.jpg": saving("CMYK"),
    **{f"turned{k}.jpg": saving("RGB", exif=exif(k)) for k in range(1, 9)},
    "color.png": saving("RGB"),
    "keyed.png": saving("RGB", transparency=(255, 0, 31)),
    "alpha.png": saving("RGBA"),
    "gray.png": saving("L"),
    "gray-alpha.png": saving("LA"),
    "bits.png": saving("1"),
    "palette.png": saving("P"),
    "keyed-palette.png": saving("P", transparency=3),
    "turned.png": saving("RGB", exif=exif(6)),
    "sixteen.png": save_gray_of_sixteen_bits,
    "sixteen.tif": save_gray_of_sixteen_bits,
    "color.tif": saving("RGB"),
    "packed.tif": saving("RGB", compression="tiff_lzw"),
    "turned.tif": saving("RGB", exif=exif(6)),
    "gray.tif": saving("L"),
    "pages.tif": lambda path: save_frames(path, "RGB"),
    "cmyk.tif": saving("CMYK"),
    "frames.gif": lambda path: save_frames(path, "P"),
    "color.bmp": saving("RGB"),
    "gray.bmp": saving("L"),
    "palette.bmp": saving("P"),
    "color.ppm": saving("RGB"),
    "gray.pgm": saving("L"),
    "color.webp": saving("RGB", lossless=True),
    "frames.webp": lambda path: save_frames(path, "RGB"),
}


def decode_plainly(path: Path) -> Image.Image:
    """A copy, which knows nothing of its file."""
    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            return image.copy()
        pixels = np.asarray(image).astype(np.int64)
    return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))


def preprocess_plainly(image: Image.Image, way: Preprocessing) -> np.ndarray:
    """The whole picture as float at each step."""
    turned = TURNS.get(orientation_of(image)) if way.exif_orientation else None
    image = image.copy() if turned is None else image.transpose(turned)
    image = image.convert("L" if way.channels == 1 else "RGB")
    if way.bgr:
        image = Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
    image = image.resize(way.resized_size(*image.size), Image.Resampling[way.interpolation.upper()])
    (height, width), mean, std = way.size, np.array(way.mean, np.float32), np.array(way.std, np.float32)
    sides = ((image.width, width), (image.height, height))  # as torchvision's CenterCrop pads and cuts
    left, top = (-((crop - side) // 2) if side < crop else round((side - crop) / 2) for side, crop in sides)
    pixels = np.asarray(image.crop((left, top, left + width, top + height))).reshape(height, width, way.channels)
    return ((pixels.astype(np.float32) / 255.0 - mean) / std).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, save in KINDS.items():
        save(folder / name)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_every_bit_is_that_of_the_plain_way(pictures: Path, name: str) -> None:
    plain = decode_plainly(pictures / name)
    before = np.asarray(plain).copy()
    compared = 0
    for what, way in WAYS.items():
        if way.exif_orientation and orientation_of(plain) in (2, 4, 5, 7):
            continue  # mirrored: test_preprocess_torchvision.py
        image = decode(pictures / name)
        made, expected = way.tensor(image), preprocess_plainly(plain, way)
        assert made.dtype == np.float32
        assert made.flags.c_contiguous
        np.testing.assert_array_equal(made.view(np.int32), np.ascontiguousarray(expected).view(np.int32), what)
        assert orientation_of(image) == orientation_of(plain)
        np.testing.assert_array_equal(np.asarray(image), before, "a picture is not changed by being preprocessed")
        compared += 1
    assert compared >= len(WAYS) - 1


def test_a_photograph_is_not_copied(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(image: Image.Image) -> Image.Image:
        raise AssertionError("a copy, which costs as much as a quarter of decoding")

    monkeypatch.setattr(Image.Image, "copy", copy)
    assert COLOR.tensor(decode(pictures / "color.jpg")).shape == (3, 20, 20)


def test_every_bit_of_photographs(shared: Path) -> None:
    photographs = sorted((shared / "data" / "imagenet-500").glob("*/*.jpg"))[::20]
    assert len(photographs) == 25
    way = Preprocessing(256, 224, MEAN, STD)
    for path in photographs:
        expected = np.ascontiguousarray(preprocess_plainly(decode_plainly(path), way))
        np.testing.assert_array_equal(way.tensor(decode(path)).view(np.int32), expected.view(np.int32), path.name)


def test_every_value_of_a_pixel_is_normalized_as_by_the_formula() -> None:
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 2, 3))
    for mean, std in ((MEAN, STD), ((0.0,) * 3, (1.0,) * 3), ((-123.675, 1e-30, 0.1), (1e-20, 1 / 255, 3e5))):
        made = Preprocessing(256, 2, mean, std).normalize(pixels)
        formula = (pixels.astype(np.float32) / 255.0 - np.array(mean, np.float32)) / np.array(std, np.float32)
        expected = np.ascontiguousarray(formula.transpose(2, 0, 1))
        np.testing.assert_array_equal(made.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_its_images_and_their_identities(pictures: Path, workers: int) -> None:
    dataset = open_dataset(str(pictures), COLOR, "test")
    made = list(batches(dataset, 5, workers, hashed=True))
    assert len(made) == -(-len(KINDS) // 5)
    for name, row, digest in ((n, r, d) for b in made for n, r, d in zip(b.ids, b.input, b.sha256s, strict=True)):
        expected = np.ascontiguousarray(preprocess_plainly(decode_plainly(pictures / name), COLOR))
        np.testing.assert_array_equal(row.view(np.int32), expected.view(np.int32), name)
        assert digest == dataset.sha256(dataset.ids.index(name))
