"""Everything about a recipe that can be checked before anything is run."""

from __future__ import annotations

from edgecnn.calibration import find_manifest, read_manifest
from edgecnn.dataset import open_dataset
from edgecnn.errors import RecipeError
from edgecnn.preprocess import preprocessing_from_json
from edgecnn.recipe import Recipe
from edgecnn.targets import find_target
from edgecnn.zoo import find_model


def check_recipe(recipe: Recipe) -> None:
    """Raise the error that a run would end with for its network, targets, calibration set or data set."""
    card = find_model(recipe.model.name)
    for target in recipe.targets:
        find_target(target)
    if recipe.data.calibration:
        manifest = read_manifest(find_manifest(recipe.data.calibration))
        if manifest.split != "train":
            raise RecipeError(
                f"{recipe.path}: calibration set {recipe.data.calibration} holds {manifest.split} images",
                "calibrate on training images, or the accuracy that is measured is not that of new images",
            )
    open_dataset(recipe.data.source, preprocessing_from_json(card.preprocessing), "test")
