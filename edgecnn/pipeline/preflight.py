"""Everything about a recipe that can be checked before anything is run."""

from __future__ import annotations

from pathlib import Path

from edgecnn.data.calibration_set import find_manifest, read_manifest
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import ArtifactError, RecipeError
from edgecnn.recipe.schema import Recipe
from edgecnn.targets import find_target
from edgecnn.zoo import find_model


def check_recipe(recipe: Recipe) -> None:
    """Raise the error that a run would end with for its network, weights, targets, calibration set or data set."""
    card, weights = find_model(recipe.model.name), recipe.model.weights
    if weights == "none" and recipe.train.epochs == 0:
        raise RecipeError(
            f"{recipe.path}: train.epochs is 0 and model.weights is 'none': the network would stay random",
            "set train.epochs, or model.weights to 'default', a path or a URL",
        )
    if weights not in ("none", "default") and "://" not in weights and not Path(weights).is_file():
        raise ArtifactError(
            f"{recipe.path}: model.weights = {weights!r}: no such file", "check the path; or a URL, 'default' or 'none'"
        )
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
