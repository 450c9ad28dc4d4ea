"""The evaluation transform, by hand on a tiny picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edgecnn.errors import DataError
from edgecnn.preprocess import Preprocessing, preprocessing_from_json
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
