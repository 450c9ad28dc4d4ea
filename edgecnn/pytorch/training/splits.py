"""The images of a training run: what is learned from, what chooses the epoch, what it is tested on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgecnn.data.dataset import Dataset, held_out
from edgecnn.data.open import has_test_split, open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.recipe_input import zoo_preprocessing
from edgecnn.errors import DataError, RecipeError
from edgecnn.pytorch.training.epoch import DataSplits
from edgecnn.pytorch.training.loader import ImageLoader
from edgecnn.pytorch.training.transfer import known_labels
from edgecnn.recipe.schema import AugmentSettings, Recipe, TrainSettings


def open_splits(recipe: Recipe, device: torch.device, skip_corrupt: bool) -> DataSplits:
    """Open the recipe's data and hold part of the training split out; raises `DataError` when it cannot be trained on.

    Test classes are matched with the training classes by name; one that these lack is refused. Where the data has no
    test split of its own, none is reported.
    """
    preprocessing = zoo_preprocessing(recipe)
    whole = _open_train(recipe, preprocessing, known_labels(recipe.model.weights))
    labels = list(whole.label_names or ())
    _check_trainable(recipe, whole, labels)
    source = recipe.data.source
    test = open_dataset(source, preprocessing, "test", labels) if has_test_split(source) else None
    return split_images(recipe.train, whole, test, device, skip_corrupt)


def split_images(
    settings: TrainSettings, whole: Dataset, test: Dataset | None, device: torch.device, skip_corrupt: bool
) -> DataSplits:
    """`whole`, labeled training images, without those that are held out of it to choose the epoch, and these; raises
    `DataError` where they make no batch."""
    assert whole.labels is not None
    assert whole.preprocessing is not None
    held = set(held_out(whole, settings.validation, settings.seed))
    kept = whole.subset([i for i in range(len(whole)) if i not in held])
    if len(kept) < settings.batch:
        raise DataError(
            f"{whole.name}: {len(kept)} training images make no batch of {settings.batch}",
            f"set train.batch to at most {len(kept)}",
        )

    def pictures(dataset: Dataset, augment: AugmentSettings) -> ImageLoader:
        return ImageLoader(
            dataset, augment, device, seed=settings.seed, workers=settings.workers, skip_corrupt=skip_corrupt
        )

    plain = AugmentSettings()
    return DataSplits(
        train=pictures(kept, settings.augment),
        validation=pictures(whole.subset(sorted(held)), plain) if held else None,
        test=None if test is None else pictures(test, plain),
        labels=list(whole.label_names or ()),
        preprocessing=whole.preprocessing,
    )


def _open_train(recipe: Recipe, preprocessing: Preprocessing, known: Sequence[str]) -> Dataset:
    """The training split, in the order of the classes that the weights know where it has just those."""
    found = open_dataset(recipe.data.source, preprocessing, "train")
    if sorted(found.label_names or ()) == sorted(known) and list(found.label_names or ()) != list(known):
        return open_dataset(recipe.data.source, preprocessing, "train", known)
    return found


def _check_trainable(recipe: Recipe, whole: Dataset, labels: list[str]) -> None:
    if whole.labels is None or not labels:
        raise DataError(f"{whole.name}: has no labels to learn", "name an image folder or a data set with labels")
    if len(labels) < 2:
        raise DataError(f"{whole.name}: one class only ({labels[0]})", "a classifier needs at least two classes")
    if recipe.model.classes is not None and recipe.model.classes != len(labels):
        raise RecipeError(
            f"model.classes = {recipe.model.classes}, but {recipe.data.source} has {len(labels)} classes",
            "leave model.classes out: it then follows the data",
        )
