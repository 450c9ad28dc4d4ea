"""Everything about a recipe that can be checked before anything is run."""

from __future__ import annotations

from pathlib import Path

from edgecnn.data.calibration_rule import read_rule, require_kind, require_listed, split_of
from edgecnn.data.calibration_set import find_calibration_set, find_manifest, read_manifest, undecoded
from edgecnn.data.class_split import split_classes
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import is_split, open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.recipe_input import zoo_preprocessing
from edgecnn.errors import ArtifactError, DataError, RecipeError, nearest
from edgecnn.measure.decision import decision_thresholds
from edgecnn.recipe.location import kind_of
from edgecnn.recipe.schema import Recipe
from edgecnn.steps._own import check_own
from edgecnn.targets import find_target
from edgecnn.zoo import find_model

SHARED_LOOKED_AT = 32  # of the images that two folders have by name: reading all of them would take minutes


def check_recipe(recipe: Recipe, *, trust_code: bool = True) -> None:
    """Raise the error that a run would end with for its network, weights, targets, calibration set or data set; and
    without `trust_code` for a network that is code."""
    preprocessing = check_own(recipe, trust_code=trust_code) if recipe.model.own else None
    if recipe.model.name:
        preprocessing = zoo_preprocessing(recipe)
    weights = recipe.model.weights
    published = not recipe.model.name or find_model(recipe.model.name).weights is not None
    if weights == "none" and recipe.train.epochs == 0 and recipe.model.name:
        others = " ('default': the published ones)" if published else ", yours"
        raise RecipeError(
            f"{recipe.path}: train.epochs is 0 and model.weights is 'none': the network would stay random",
            f"give weights: --set model.weights=FILE{others}; or train: train.epochs",
        )
    if weights == "default" and not published:
        raise RecipeError(
            f"{recipe.path}: model.weights = 'default': nobody publishes weights of {recipe.model.name}",
            "name a file of yours: --set model.weights=FILE",
        )
    if weights not in ("none", "default") and "://" not in weights and not Path(weights).is_file():
        raise ArtifactError(
            f"{recipe.path}: model.weights = {weights!r}: no such file", "check the path; or a URL, 'default' or 'none'"
        )
    for target in recipe.targets:
        find_target(target)
    if recipe.data.calibration and (split := split_of(recipe.data.calibration)) != "train":
        raise RecipeError(
            f"{recipe.path}: calibration set {recipe.data.calibration} holds {split} images",
            "calibrate on training images, or the accuracy that is measured is not that of new images",
        )
    _check_images(recipe, preprocessing)


def _check_images(recipe: Recipe, preprocessing: Preprocessing | None) -> None:
    data = recipe.data
    if data.test and (manifest := read_manifest(find_manifest(data.test))).split != "test":
        raise RecipeError(
            f"{recipe.path}: data.test = {data.test!r} holds {manifest.split} images",
            "write a test set: edgecnn calibration-set DATA --test -o NAME.txt",
        )
    if recipe.train.loss is not None:
        _check_classes(recipe, preprocessing)
        return
    _require_split(recipe)
    test = open_dataset(data.source, preprocessing or undecoded(data.source), "test")
    if test.label_names:
        try:
            decision_thresholds(recipe.decision, test.label_names, len(test.label_names))
        except RecipeError as exc:
            raise RecipeError(f"{recipe.path}: {exc.message}", exc.hint) from exc
    if set(recipe.precisions) == {"fp32"} and recipe.train.epochs == 0:
        return
    train = open_dataset(data.source, preprocessing, "train") if recipe.train.epochs else None
    if train is not None and train.by_position:
        known = set(train.label_names or ())
        if missing := [name for name in test.label_names or () if name not in known]:
            raise DataError(
                f"{data.source}: {len(missing)} classes of the test images have no training images: {missing[0]!r}",
                nearest(missing[0], known) or "add them, or leave these classes out of the test images",
            )
    source = data.calibration_source or data.source
    path = find_calibration_set(data.calibration) if data.calibration else None
    rule = read_rule(path) if path is not None and path.suffix == ".toml" else None
    if path is not None and rule is not None:
        require_kind(path, rule, source)
    calibrating = open_dataset(source, preprocessing or undecoded(source), "train")
    if path is not None and rule is None:
        require_listed(path, read_manifest(path), calibrating, source)
    if rule is not None and len(calibrating) < rule.images:
        raise DataError(
            f"{path}: asks for {rule.images} training images, {source} has {len(calibrating)}",
            "name more images, or a rule that asks for fewer; without data.calibration all of up to 512 are taken",
        )
    if kind_of(source) == "imagenet" or data.calibration_source:
        _require_others(source, calibrating, test)


def _check_classes(recipe: Recipe, preprocessing: Preprocessing | None) -> None:
    """Of an embedding network, whose classes are split and not its images."""
    source = recipe.data.source
    names = open_dataset(source, preprocessing or undecoded(source), "train").label_names
    if not names:
        raise DataError(f"{source}: has no labels to learn", "name an image folder or a data set with labels")
    split_classes(source, names, recipe.verification)


def _require_others(source: str, calibrating: Dataset, test: Dataset) -> None:
    """Refuse a folder of the images that the network is judged by, or of some of them: the same names, and the same
    pictures in the first of these. Raises `DataError`."""
    judged = {name: k for k, name in enumerate(test.ids)}
    shared = [(k, judged[name]) for k, name in enumerate(calibrating.ids) if name in judged]
    if shared and all(calibrating.sha256(k) == test.sha256(j) for k, j in shared[:SHARED_LOOKED_AT]):
        some = "" if len(shared) == len(calibrating) else f"{len(shared)} of "
        raise DataError(
            f"{source}: {some}the images to calibrate with are those that the network is judged by",
            "name the folder of other images: --calibration-data DIR",
        )


def _require_split(recipe: Recipe) -> None:
    """Refuse to judge by the images that the network was trained or calibrated on; raises `DataError`."""
    source, reduced = recipe.data.source, set(recipe.precisions) - {"fp32"} and not recipe.data.calibration_source
    learns = [
        word for word, does in (("trained", recipe.train.epochs or recipe.qat.epochs), ("calibrated", reduced)) if does
    ]
    if learns and not is_split(source):
        raise DataError(
            f"{recipe.path}: data.source = {source!r}: {' and '.join(learns)} on the images that it is judged by",
            "split it into folders train and test (or val), or name a data set that has both",
        )
