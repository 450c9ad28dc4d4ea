"""`[input]` on top of a network's own preprocessing, or in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.recipe_input import apply_input, zoo_preprocessing
from edgecnn.errors import ModelError, RecipeError
from edgecnn.recipe.schema import DataSettings, InputSettings, ModelSettings, Recipe

OWN = Preprocessing(resize=256, crop=224, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
WHOLE: dict[str, Any] = {"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
WHERE = Path("mine.toml")


def applied(own: Preprocessing | None = OWN, **settings: Any) -> Preprocessing:
    return apply_input(InputSettings(**settings), own, WHERE)


def test_nothing_given_changes_nothing() -> None:
    assert applied() == OWN


def test_each_setting_alone() -> None:
    assert applied(mean=(0.1, 0.1, 0.1)).mean == (0.1, 0.1, 0.1)
    assert applied(std=(0.1, 0.1, 0.1)).std == (0.1, 0.1, 0.1)
    assert applied(interpolation="bicubic").interpolation == "bicubic"
    assert applied(exif_orientation=True).exif_orientation
    assert applied(channels="bgr").bgr
    assert (applied(resize=300).resize, applied(resize=300).crop) == (300, 224)
    assert (applied(size=160).resize, applied(size=160).crop) == (183, 160)
    assert (applied(size=(180, 320)).resize, applied(size=(180, 320)).crop) == (366, (180, 320))
    assert applied(size=(180, 320), crop="none").squash
    assert applied(size=(180, 320), crop="none").input_shape == (3, 180, 320)


def test_a_network_of_its_own_says_size_mean_and_std() -> None:
    made = applied(None, **WHOLE)
    assert (made.resize, made.crop, made.channels) == (32, 32, 3)
    assert applied(None, size=16, mean=(0.3,), std=(0.3,)).channels == 1
    assert applied(None, **WHOLE | {"size": (24, 32)}).resize == 32
    with pytest.raises(RecipeError, match=r"mine.toml: input.size, input.std missing") as caught:
        applied(None, mean=(0.5,))
    assert "size = 224" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": "gray"}, "1 channels with 3 means"),
        ({"mean": (0.5,)}, "3 channels with 1 means"),
        ({"std": (0.1, 0.0, 0.1)}, "a standard deviation must be positive"),
        ({"resize": 100}, "crop 224 must be between 1 and resize 100"),
        ({"size": 100_000}, "beyond 16384 pixels"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_recipe(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        applied(**settings)
    assert caught.value.message.startswith("mine.toml: [input]: ")


def test_a_network_of_the_zoo_refuses_what_it_cannot_take() -> None:
    def recipe(name: str, **settings: Any) -> Recipe:
        return Recipe(model=ModelSettings(name), data=DataSettings("digits"), input=InputSettings(**settings))

    assert zoo_preprocessing(recipe("resnet18", size=(128, 256))).input_shape == (3, 128, 256)
    with pytest.raises(ModelError, match="lenet5 cannot take 28x28"):
        zoo_preprocessing(recipe("lenet5", size=28))
    with pytest.raises(RecipeError, match="makes 3, lenet5 takes 1"):
        zoo_preprocessing(recipe("lenet5", channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3))
