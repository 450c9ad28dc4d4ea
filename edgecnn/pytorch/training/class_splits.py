"""The images of a training run whose classes are split, not its images."""

from __future__ import annotations

import torch

from edgecnn.data.class_split import ClassSplit, images_for_pairs, of_classes, require_twos, split_classes
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import has_test_split, open_dataset
from edgecnn.data.recipe_input import zoo_preprocessing
from edgecnn.errors import DataError
from edgecnn.pytorch.training.epoch import DataSplits
from edgecnn.pytorch.training.loader import ImageLoader
from edgecnn.recipe.schema import AugmentSettings, Recipe


def open_class_splits(recipe: Recipe, device: torch.device, skip_corrupt: bool) -> tuple[DataSplits, ClassSplit]:
    """Training images of some classes; of others, in the test split where there is one, what chooses the epoch and the
    threshold; and of the rest what is tested on. Raises `DataError` for too few classes, or images of one."""
    preprocessing, source, settings = zoo_preprocessing(recipe), recipe.data.source, recipe.train
    whole = open_dataset(source, preprocessing, "train")
    names = list(whole.label_names or ())
    if whole.labels is None or not names:
        raise DataError(f"{whole.name}: has no labels to learn", "name an image folder or a data set with labels")
    classes = split_classes(source, names, recipe.verification)
    unseen = open_dataset(source, preprocessing, "test", names) if has_test_split(source) else whole
    train = require_twos(of_classes(whole, classes.train))
    if len(train) < settings.batch:
        raise DataError(
            f"{whole.name}: {len(train)} images of {len(classes.train)} classes to train on make no batch of "
            f"{settings.batch}",
            f"set train.batch to at most {len(train)}",
        )

    def pictures(dataset: Dataset, augment: AugmentSettings) -> ImageLoader:
        return ImageLoader(
            dataset, augment, device, seed=settings.seed, workers=settings.workers, skip_corrupt=skip_corrupt
        )

    plain = AugmentSettings()
    splits = DataSplits(
        train=pictures(train, settings.augment),
        validation=pictures(images_for_pairs(of_classes(unseen, classes.validation)), plain),
        test=pictures(images_for_pairs(of_classes(unseen, classes.test)), plain),
        labels=list(classes.train),
        preprocessing=preprocessing,
    )
    return splits, classes
