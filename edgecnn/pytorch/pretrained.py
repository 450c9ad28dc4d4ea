"""A recipe that trains nothing: its weights, published or given, as the checkpoint that the later steps start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact import Sidecar
from edgecnn.errors import ModelError, RecipeError
from edgecnn.preprocess import preprocessing_from_json
from edgecnn.pytorch.checkpoint import checkpoint_sidecar, write_checkpoint
from edgecnn.pytorch.models import build_model
from edgecnn.pytorch.weights import load_weights
from edgecnn.recipe import Recipe
from edgecnn.zoo import find_model, imagenet_classes


def checkpoint_from_weights(recipe: Recipe, output: Path, labels: Sequence[str]) -> Sidecar:
    """Write the weights of `recipe.model` as the checkpoint `output`.

    `labels` are the data set's; a network for the 1 000 classes of ImageNet has its own. Raises `RecipeError` when
    there are no weights to take, `ModelError` when they do not fit.
    """
    model = recipe.model
    if model.weights == "none":
        raise RecipeError(
            f"{recipe.path}: train.epochs is 0 and model.weights is 'none': the network would stay random",
            "set train.epochs, or model.weights to 'default', a path or a URL",
        )
    card = find_model(model.name)
    classes = card.classes if model.classes is None else model.classes
    wnids: Sequence[str] | None = None
    if (classes, card.classes) == (1000, 1000):
        labels, wnids = imagenet_classes()
    if len(labels) != classes:
        raise ModelError(
            f"{recipe.path}: {len(labels)} classes in {recipe.data.source}, {classes} in the network",
            "set model.classes, or name the data set that the weights were trained on",
        )
    network = build_model(card.name, classes)
    info = load_weights(network, card, model.weights)
    preprocessing = preprocessing_from_json(card.preprocessing)
    sidecar = checkpoint_sidecar(recipe, output, list(labels), preprocessing, {}, info.facts())
    if wnids is not None:
        sidecar = dataclasses.replace(sidecar, wnids=list(wnids))
    return write_checkpoint(output, network.state_dict(), sidecar)
