"""What serving pipelines do to a picture, against OpenCV where it is here, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgecnn.contract import Geometry
from edgecnn.data.dataset import Dataset
from edgecnn.data.geometry import letterbox, resize_bilinear, resize_cv2_bilinear, serve_as
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, MeasurementError

SHAPES = [((37, 53), (24, 24)), ((320, 480), (256, 384)), ((9, 5), (31, 40)), ((64, 96), (32, 48)), ((1, 1), (3, 2))]


def pixels(height: int, width: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, *channels), np.uint8)


def by_definition(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's fixed-point INTER_LINEAR, one pixel at a time."""
    rows, columns = image.shape
    made = np.zeros((height, width), np.uint8)
    for y in range(height):
        fy = np.float32((y + 0.5) * (rows / height) - 0.5)
        sy = int(np.floor(fy))
        v = [int(np.rint(w * np.float32(2048))) for w in (np.float32(1) - (fy - np.float32(sy)), fy - np.float32(sy))]
        for x in range(width):
            fx = np.float32((x + 0.5) * (columns / width) - 0.5)
            sx = int(np.floor(fx))
            share = np.float32(0) if sx < 0 or sx >= columns - 1 else fx - np.float32(sx)
            h = [int(np.rint(w * np.float32(2048))) for w in (np.float32(1) - share, share)]
            taps = [min(max(sx + k, 0), columns - 1) for k in (0, 1)]
            total = 0
            for weight, k in zip(v, (0, 1), strict=True):
                row = image[min(max(sy + k, 0), rows - 1)]
                total += ((sum(int(row[t]) * a for t, a in zip(taps, h, strict=True)) >> 4) * weight) >> 16
            made[y, x] = (total + 2) >> 2
    return made


@pytest.mark.parametrize(("old", "new"), [s for s in SHAPES if s[0] not in ((320, 480), (64, 96))])
def test_cv2_bilinear_is_its_definition(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = pixels(*old)
    assert np.array_equal(resize_cv2_bilinear(image, *new), by_definition(image, *new))


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_cv2_bilinear_is_what_opencv_computes(old: tuple[int, int], new: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    for image in (pixels(*old, 3), pixels(*old)):
        expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize_cv2_bilinear(image, *new), expected)


def test_an_exact_halving_is_the_mean_of_four() -> None:
    assert resize_cv2_bilinear(np.array([[0, 1], [2, 4]], np.uint8), 1, 1).tolist() == [[2]]  # 7 / 4, rounded


def test_bilinear_lies_between_pixel_centers_and_is_not_antialiased() -> None:
    assert resize_bilinear(np.array([[0, 100]], np.uint8), 1, 4).tolist() == [[0, 25, 75, 100]]
    stripes = np.tile(np.array([[0, 255, 0, 0]], np.uint8), (1, 3))
    assert resize_bilinear(stripes, 1, 3).tolist() == [[128, 128, 128]]  # antialiased it would be 64
    assert resize_bilinear(pixels(7, 5, 3), 7, 5).tolist() == pixels(7, 5, 3).tolist()


def test_a_letterbox_keeps_proportions_and_fills_with_black() -> None:
    made = letterbox(np.full((10, 20, 3), 200, np.uint8), 8, 8)
    assert made.shape == (8, 8, 3)
    assert (made[2:6] == 200).all()
    assert not made[:2].any()
    assert not made[6:].any()
    assert letterbox(np.full((1, 400), 9, np.uint8), 8, 8).sum() == 8 * 9  # at least one row is left


@pytest.mark.parametrize(
    ("picture", "network", "inner"),
    [((375, 500), (224, 224), (167, 224)), ((500, 333), (224, 224), (224, 148)), ((10, 31), (16, 40), (13, 40))],
)
def test_sizes_are_those_of_nvinfer(picture: tuple[int, int], network: tuple[int, int], inner: tuple[int, int]) -> None:
    """It leaves out the last row or column of an odd side, and drops fractions of a pixel."""
    made = _served(np.full((*picture, 3), 255, np.uint8), "letterbox", network)
    assert (int(made.any(axis=(1, 2)).sum()), int(made.any(axis=(0, 2)).sum())) == inner
    odd = np.zeros((*picture, 3), np.uint8)
    odd[picture[0] // 2 * 2 :], odd[:, picture[1] // 2 * 2 :] = 255, 255
    assert odd.any()
    assert not _served(odd, "nvinfer-squash", network).any()


def _served(image: np.ndarray, geometry: Geometry, size: tuple[int, int]) -> np.ndarray:
    known = Preprocessing(resize=max(size), crop=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    data = Dataset("d", ("a",), None, None, known, lambda i: b"a", lambda i: Image.fromarray(image))
    served = serve_as(data, geometry).preprocessing
    assert served is not None
    return np.asarray(served.crop_image(Image.fromarray(image)))


def folder_of(image: Image.Image, channels: int = 3) -> Dataset:
    known = Preprocessing(resize=10, crop=8, mean=(0.5,) * channels, std=(0.5,) * channels, channels=channels)
    return Dataset("d", ("a",), None, None, known, lambda i: b"a", lambda i: image)


def test_a_data_set_is_served_as_asked() -> None:
    image = Image.fromarray(pixels(20, 30, 3))
    own = folder_of(image)
    array = np.asarray(image)
    expected = {
        "nvinfer-squash": resize_bilinear(array, 8, 8),
        "letterbox": letterbox(array, 8, 8),
        "cv2-bilinear": resize_cv2_bilinear(array, 10, 15)[1:9, 4:12],  # round((15 - 8) / 2) is 4
        "no-antialias": resize_bilinear(array, 10, 15)[1:9, 4:12],
    }
    for geometry, wanted in expected.items():
        served = serve_as(own, geometry)  # type: ignore[arg-type]
        assert np.array_equal(served.in_form("uint8-nhwc").tensor(0), wanted), geometry
        assert served.preprocessing is not None
        assert served.preprocessing.sha256 != own.preprocessing.sha256  # type: ignore[union-attr]
    grey = serve_as(folder_of(image, 1), "letterbox")
    assert grey.tensor(0).shape == (1, 8, 8)


def test_forms_of_one_image_are_the_same_pixels() -> None:
    own = folder_of(Image.fromarray(pixels(10, 10, 3)))
    rows, planes = own.in_form("uint8-nhwc").tensor(0), own.in_form("raw-nchw").tensor(0)
    assert (rows.dtype, rows.shape, planes.dtype) == (np.uint8, (8, 8, 3), np.float32)
    assert np.array_equal(rows.transpose(2, 0, 1), planes)
    assert own.tensor(0) == pytest.approx((planes / 255 - 0.5) / 0.5, abs=1e-6)


def test_normalised_arrays_are_no_pixels() -> None:
    held = Dataset("x.npz", ("0",), None, None, None, lambda i: b"", None, lambda i: np.zeros((3, 8, 8), np.float32))
    with pytest.raises(DataError, match="normalised already"):
        held.in_form("raw-nchw")
    with pytest.raises(MeasurementError, match="cropped already"):
        serve_as(held, "letterbox")
