"""Rectangles, the whole picture squeezed, the order of channels, and EXIF orientation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgecnn.data.dataset import batches
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing, first_difference, orientation_of, preprocessing_from_json

PLAIN = Preprocessing(resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3)
NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def test_a_rectangle_is_height_and_width() -> None:
    made = replace(PLAIN, crop=(6, 8)).tensor(Image.fromarray(NOISE))
    assert made.shape == replace(PLAIN, crop=(6, 8)).input_shape == (3, 6, 8)
    np.testing.assert_array_equal(made, PLAIN.tensor(Image.fromarray(NOISE))[:, 1:7])


def test_squash_takes_the_whole_picture() -> None:
    made = replace(PLAIN, crop=(6, 8), squash=True).tensor(Image.fromarray(NOISE))
    expected = np.asarray(Image.fromarray(NOISE).resize((8, 6), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(made, expected.transpose(2, 0, 1).astype(np.float32) / 255)


def test_bgr_is_the_same_picture_with_blue_first_and_mean_and_std_in_that_order() -> None:
    picture = Image.fromarray(NOISE)
    rgb = replace(PLAIN, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)).tensor(picture)
    bgr = replace(PLAIN, mean=(0.3, 0.2, 0.1), std=(0.7, 0.6, 0.5), bgr=True).tensor(picture)
    np.testing.assert_array_equal(bgr, rgb[::-1])
    assert not np.array_equal(bgr, rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(NOISE).save(tmp_path / "p.png", exif=exif)
    with Image.open(tmp_path / "p.png") as picture:
        picture.load()
    assert orientation_of(picture) == orientation
    whole = replace(PLAIN, crop=(12, 20), squash=True)
    np.testing.assert_array_equal(whole.tensor(picture), whole.tensor(Image.fromarray(NOISE)))
    upright = ImageOps.exif_transpose(picture)
    np.testing.assert_array_equal(replace(whole, exif_orientation=True).tensor(picture), whole.tensor(upright))


def test_a_damaged_exif_block_is_none() -> None:
    picture = Image.fromarray(NOISE)
    picture.info["exif"] = b"Exif\0\0MM\0*\xff\xff"
    assert orientation_of(picture) == 1


def test_photographs_that_carry_an_orientation_are_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, orientation in enumerate((1, 6, 8, None)):
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        Image.fromarray(NOISE).save(tmp_path / f"{k}.png", exif=exif)
    for workers in (0, 2):
        list(batches(open_dataset(str(tmp_path), PLAIN, "test"), 3, workers))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"{tmp_path.name}: 2 of 4 pictures carry an EXIF orientation, and are read as they are stored; "
        "input.exif_orientation turns them"
    ]
    shutil.rmtree(tmp_path)


def test_what_is_off_changes_no_identity_and_what_is_on_does() -> None:
    assert not {"squash", "bgr", "exif_orientation"} & PLAIN.to_json().keys()
    for changed in ({"squash": True}, {"bgr": True}, {"exif_orientation": True}, {"crop": (6, 8)}):
        other = replace(PLAIN, **changed)
        assert other.sha256 != PLAIN.sha256
        assert preprocessing_from_json(other.to_json()) == other
        (key,) = changed
        assert str(first_difference(PLAIN.to_json(), other.to_json())).startswith(key)
        assert str(first_difference(other.to_json(), PLAIN.to_json())).startswith(key)


def test_photographs_in_color_for_a_gray_network_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, pixel in {"a": (200, 40, 40), "b": (90, 90, 90), "c": (97, 90, 95)}.items():
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), pixel).save(tmp_path / name / "x.jpg")
    for channels, colored in ((1, 1), (3, 0)):
        way = Preprocessing(16, (16, 16), (0.5,) * channels, (0.5,) * channels, channels=channels)
        images = open_dataset(str(tmp_path), way, "test")
        list(batches(images, 2))
        assert len(images.colored) == colored
    assert "1 of 3 pictures are in color, and the network reads gray ones" in capsys.readouterr().err
