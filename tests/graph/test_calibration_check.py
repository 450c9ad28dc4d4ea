"""The calibration-set doctor on sets with known faults: leaked, nearly leaked, repeated, lopsided, too small."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageFilter

from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError
from edgecnn.steps.calibrate import check_calibration
from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx

PREPROCESSING = Preprocessing(32, 32, (0.5,) * 3, (0.25,) * 3)


def picture(seed: int, size: int = 64) -> Image.Image:
    """Blobs of colour: every seed another picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def folder(root: Path, pictures: dict[str, Image.Image]) -> Dataset:
    for name, image in pictures.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return open_dataset(str(root), PREPROCESSING, "test")


@pytest.fixture
def test_set(tmp_path: Path) -> Dataset:
    return folder(tmp_path / "test", {f"{'ab'[k % 2]}/{k}.png": picture(k) for k in range(40)})


def fresh(count: int) -> dict[str, Image.Image]:
    return {f"{'ab'[k % 2]}/{k}.png": picture(1000 + k) for k in range(count)}


def test_a_clean_set_has_nothing_to_complain_of(tmp_path: Path, test_set: Dataset) -> None:
    found = check_calibration(folder(tmp_path / "c", fresh(60)), test_set, None)
    assert (found.duplicates, found.near_duplicates, found.problems) == ((), (), ())
    assert found.near_duplicates_checked
    assert (found.classes, found.classes_covered) == (2, 2)


def test_test_images_are_found_under_another_name(tmp_path: Path, test_set: Dataset) -> None:
    found = check_calibration(folder(tmp_path / "c", {**fresh(20), "a/leak.png": picture(6)}), test_set, None)
    assert found.duplicates == (("a/leak.png", "a/6.png"),)
    assert found.near_duplicates == ()
    assert "1 images are test images" in found.problems[0]


def jpeg(image: Image.Image) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=40)
    return Image.open(held)


@pytest.mark.parametrize(
    "change",
    [jpeg, lambda i: i.resize((48, 48)), lambda i: i.crop((1, 1, 63, 63)), lambda i: i.point(lambda v: 20 + 0.85 * v)],
    ids=["recompressed", "resized", "cropped", "faded"],
)
def test_nearly_the_same_pictures_are_found(
    tmp_path: Path, test_set: Dataset, change: Callable[[Image.Image], Image.Image]
) -> None:
    calibration = folder(tmp_path / "c", {**fresh(30), "b/like.png": change(picture(11))})
    found = check_calibration(calibration, test_set, None)
    assert found.near_duplicates == (("b/like.png", "b/11.png"),)
    assert found.duplicates == ()


def test_pictures_that_all_look_alike_are_not_judged(tmp_path: Path, test_set: Dataset) -> None:
    rng = np.random.default_rng(0)
    base = np.asarray(picture(3), np.int16)
    alike = {
        f"a/{k}.png": Image.fromarray(np.clip(base + rng.integers(-9, 9, base.shape), 0, 255).astype(np.uint8))
        for k in range(20)
    }
    found = check_calibration(folder(tmp_path / "c", alike), test_set, None)
    assert not found.near_duplicates_checked
    assert found.near_duplicates == ()


def test_repeated_images_and_missing_classes_are_counted(tmp_path: Path, test_set: Dataset) -> None:
    pictures = {"a/1.png": picture(900), "a/2.png": picture(900), "a/3.png": picture(901), "c/4.png": picture(902)}
    folder(tmp_path / "c", pictures)
    calibration = open_dataset(str(tmp_path / "c"), PREPROCESSING, "test", labels=["a", "b", "c"])
    found = check_calibration(calibration, test_set, None)
    assert found.repeated == 1
    assert (found.classes, found.classes_covered, found.classes_missing) == (3, 2, ("b",))
    assert any("1 of 3 classes have no image: b" in p for p in found.problems)


def test_the_spread_of_the_ranges_falls_with_the_images_and_gives_a_size(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(build("c = Conv(input, out=8, k=3)\nr = Relu(c)\nd = Conv(r, out=8, k=3)"), path)
    rng = np.random.default_rng(0)
    contrast = rng.lognormal(0, 0.5, 512).astype(np.float32)
    values = rng.normal(size=(512, 4, 8, 8)).astype(np.float32) * contrast[:, None, None, None]

    def data(count: int) -> Dataset:
        ids = tuple(f"{k}" for k in range(count))
        return Dataset("n", ids, None, None, None, lambda k: values[k].tobytes(), None, lambda k: values[k])

    small, large = (check_calibration(data(n), data(2), path, method="mse") for n in (16, 512))
    assert small.noise_excess_pct_median is not None
    assert large.noise_excess_pct_median is not None
    assert small.noise_excess_pct_median > 3 * large.noise_excess_pct_median
    assert small.suggested_n is not None
    assert small.suggested_n > 16
    assert any(f"about {small.suggested_n} images" in p for p in small.problems)
    assert small.worst_tensor in {"input", "r", "d"}


def test_an_empty_set_is_refused(test_set: Dataset) -> None:
    with pytest.raises(DataError, match="both sets"):
        check_calibration(test_set.subset([]), test_set, None)
