"""The preprocessing that a recipe's `[input]` asks for, on top of the network's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import DataError, RecipeError
from edgecnn.recipe.schema import InputSettings, Recipe, Setting
from edgecnn.zoo import check_size, find_model

_NEEDED = ("size", "mean", "std")


def zoo_preprocessing(recipe: Recipe) -> Preprocessing:
    """That of a recipe's network of the zoo; raises `ModelError` for a size that it cannot take, `RecipeError` for
    other channels than it takes."""
    card = find_model(recipe.model.name)
    made = apply_input(recipe.input, preprocessing_from_json(card.preprocessing), recipe.path)
    check_size(card, *made.size)
    if made.channels != card.input_shape[0]:
        raise RecipeError(
            f"{recipe.path}: input.channels = {recipe.input.channels!r} makes {made.channels}, "
            f"{card.name} takes {card.input_shape[0]}",
            "leave input.channels out, or take another network",
        )
    return made


def input_fields(recipe: Recipe) -> dict[str, Setting]:
    """The settings of `[input]` that decide what the network takes: not the geometry of the serving side."""
    return {key: value for key, value in recipe.values("input").items() if key != "input.geometry"}


def apply_input(given: InputSettings, own: Preprocessing | None, where: Path) -> Preprocessing:
    """`own` with the settings that are `given`; without `own` they must say size, mean and std.

    Another size scales `own.resize` alike. Raises `RecipeError`, which names the recipe `where`, for settings that are
    missing or make no sense.
    """
    if missing := [f"input.{key}" for key in _NEEDED if own is None and getattr(given, key) is None]:
        raise RecipeError(
            f"{where}: {', '.join(missing)} missing: how pictures become the network's input is not known",
            "add [input] with size, mean and std, as in training; for example size = 224, mean = [0.485, 0.456, 0.406]",
        )
    content: dict[str, Any] = {} if own is None else own.to_json()
    same = ("mean", "std", "interpolation", "exif_orientation")
    content |= {key: getattr(given, key) for key in same if getattr(given, key) is not None}
    if given.channels is not None:
        content |= {"channels": 1 if given.channels == "gray" else 3, "bgr": given.channels == "bgr"}
    elif own is None:
        content["channels"] = len(given.mean or ())
    content |= _geometry(given, own, content)
    try:
        return preprocessing_from_json(content)
    except DataError as exc:
        raise RecipeError(
            f"{where}: [input]: {exc.message.removeprefix('preprocessing: ')}", "`edgecnn recipe show` prints it whole"
        ) from exc


def _geometry(given: InputSettings, own: Preprocessing | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """`crop`, `resize` and `squash`."""
    size = content["crop"] if given.size is None else given.size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    squash = bool(content.get("squash")) if given.crop is None else given.crop == "none"
    if squash:
        return {"crop": [height, width], "resize": min(height, width), "squash": True}
    longest, resize = max(height, width), given.resize
    if resize is None and own is not None and not own.squash:
        resize = round(own.resize * longest / max(own.size))
    return {"crop": [height, width], "resize": resize or longest, "squash": False}
