"""The evaluation transform, by hand on a tiny picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.preprocess import Preprocessing, doubt_of, preprocessing_from_json
from edgecnn.errors import DataError
from edgecnn.zoo import cards


def test_tensor_is_cropped_at_the_centre_and_normalised() -> None:
    pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 6)
    made = Preprocessing(resize=4, crop=2, mean=(0.5,), std=(0.25,), channels=1).tensor(Image.fromarray(pixels))
    assert made.shape == (1, 2, 2)
    np.testing.assert_allclose(made[0], (pixels[1:3, 2:4] / 255 - 0.5) / 0.25, rtol=1e-6)


def test_every_zoo_entry_has_a_preprocessing_of_its_input_shape() -> None:
    for card in cards().values():
        assert preprocessing_from_json(card.preprocessing).input_shape == card.input_shape, card.name


@pytest.mark.parametrize("wrong", [{"crop": 40}, {"std": [0.0]}, {"mean": [0.5, 0.5]}, {"interpolation": "cubicish"}])
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    good = {"resize": 32, "crop": 32, "mean": [0.5], "std": [0.5], "channels": 1}
    with pytest.raises(DataError):
        preprocessing_from_json({**good, **wrong})


GOOD = {"resize": 36, "crop": 32, "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.25]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"channel_order": "BGR"}, "unknown key 'channel_order'"),
        ({"mode": "squash"}, "unknown key 'mode'"),
        ({"scale": 1.0, "to_rgb": False}, "unknown keys 'scale', 'to_rgb'"),
        ({"crop": [32, 64, 3]}, r"crop \[32, 64, 3\] is not \[height, width\]"),
        ({"crop": [32, 64.5]}, r"crop 64\.5 is not a whole number"),
        ({"crop": [64, 40]}, r"crop \(64, 40\) must be between 1 and resize 36"),
        ({"bgr": 1}, "bgr 1 is neither true nor false"),
        ({"bgr": True, "channels": 1, "mean": [0.5], "std": [0.5]}, "bgr is an order of 3 channels, not of 1"),
        ({"resize": float("inf")}, "resize inf is not a whole number"),
        ({"resize": 36.5}, r"resize 36\.5 is not a whole number"),
        ({"crop": "32"}, "crop '32' is not a whole number"),
        ({"crop": True}, "crop True is not a whole number"),
        ({"mean": 0.5}, r"mean 0\.5 is not a list of numbers"),
        ({"mean": ["0.5", "0.4", "0.3"]}, "is not a list of numbers"),
        ({"std": [0.25, 0.25, float("nan")]}, "is not a list of numbers"),
        ({"std": [float("inf")] * 3}, "is not a list of numbers"),
        ({"interpolation": ["bilinear"]}, r"interpolation \['bilinear'\] is none of"),
        ({"interpolation": 3}, "interpolation 3 is none of nearest, bilinear"),
        ({"channels": None}, "channels None is not a whole number"),
        ({"std": [0.25, 0.25, 1e-46]}, "std 1e-46 is too small to divide float32 by"),
        ({"std": [0.25, 0.25, 1e-39]}, "std 1e-39 is too small to divide float32 by"),
        ({"std": [0.25, 0.25, 1e39]}, "is not a list of numbers"),
        ({"mean": [0.5, 0.4, 10**400]}, "is not a list of numbers"),
        ({"resize": 10**12}, "resize is beyond 16384 pixels"),
        ({"resize": 10**5000}, "resize is beyond 16384 pixels"),
        ({"crop": -(10**5000)}, "crop is beyond 16384 pixels"),
    ],
)
def test_what_is_not_known_is_refused_not_ignored(changed: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        preprocessing_from_json({**GOOD, **changed})
    assert caught.value.hint


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="no resize and no std"):
        preprocessing_from_json({"crop": 32, "mean": [0.5] * 3})


TIMM = {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}


def test_the_form_of_timm_is_read_where_it_means_one_thing() -> None:
    assert preprocessing_from_json({**TIMM, "crop_mode": "center"}) == Preprocessing(
        resize=235, crop=224, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic"
    )
    for changed, words in (
        ({"crop_mode": "squash"}, "crop_mode 'squash' is not 'center'"),
        ({"input_size": [3, 224, 256]}, "is not \\[channels, size, size\\]"),
        ({"input_size": 224}, "is not \\[channels, size, size\\]"),
        ({"crop_pct": 0}, "crop_pct 0 is not"),
        ({"crop_pct": None}, "crop_pct None is not"),
        ({"resize": 256}, "unknown key 'resize'"),
        ({"architecture": "resnet18"}, "unknown key 'architecture'"),
    ):
        with pytest.raises(DataError, match=words):
            preprocessing_from_json({**TIMM, **changed})
    for key in TIMM:
        if key not in ("input_size", "crop_pct"):
            with pytest.raises(DataError, match=f"no {key}"):
                preprocessing_from_json({k: v for k, v in TIMM.items() if k != key})


@pytest.mark.parametrize("share", [1e-3, 1e-320])
def test_a_share_that_makes_pictures_too_large_is_refused(share: float) -> None:
    with pytest.raises(DataError, match="resizes beyond 16384 pixels"):
        preprocessing_from_json({**TIMM, "crop_pct": share})


def test_units_of_0_to_255_are_doubted() -> None:
    def doubt(**changed: object) -> str | None:
        return doubt_of(preprocessing_from_json({**GOOD, **changed}))

    assert "mean 123.675, 116.28, 103.53 counts in 0..255" in str(doubt(mean=[123.675, 116.28, 103.53]))
    assert "std 58.395, 57.12, 57.375 counts in 0..255" in str(doubt(std=[58.395, 57.12, 57.375]))
    assert "mean -123, 0, 0 counts in 0..255" in str(doubt(mean=[-123, 0, 0]))
    assert doubt() is None
    assert doubt(mean=[0, 0, 0], std=[1 / 255] * 3) is None, "a graph that takes 0..255"


def test_every_zoo_entry_is_free_of_doubt() -> None:
    assert [doubt_of(preprocessing_from_json(card.preprocessing)) for card in cards().values()] == [None] * len(cards())
