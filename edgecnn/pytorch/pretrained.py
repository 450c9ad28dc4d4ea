"""A recipe that trains nothing: its weights, published or given, in the network that the later steps start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from edgecnn.artifact.sidecar import Sidecar, sidecar_path, verified_sidecar
from edgecnn.errors import ModelError, RecipeError
from edgecnn.pytorch.models import build_model
from edgecnn.pytorch.weights import load_weights
from edgecnn.recipe.schema import Recipe
from edgecnn.results.training import WeightsInfo
from edgecnn.zoo import ModelCard, find_model, imagenet_classes


@dataclass(frozen=True)
class Pretrained:
    """A network with its weights, and the classes that it knows, in the order of its logits."""

    card: ModelCard
    network: nn.Module
    weights: WeightsInfo
    labels: list[str]
    wnids: list[str] | None


def load_pretrained(recipe: Recipe, labels: Sequence[str]) -> Pretrained:
    """The network of `recipe.model` with the weights that it names.

    `labels` are the data set's; weights whose sidecar names its classes keep those in their order, and a network for
    the 1 000 classes of ImageNet has its own. Raises `RecipeError` when there are no weights to take, `ModelError` when
    they do not fit, `ArtifactError` when they are not what their sidecar says.
    """
    model = recipe.model
    if model.weights == "none":
        raise RecipeError(
            f"{recipe.path}: train.epochs is 0 and model.weights is 'none': the network would stay random",
            "set train.epochs, or model.weights to 'default', a path or a URL",
        )
    card, file = find_model(model.name), Path(model.weights)
    own = verified_sidecar(file) if file.is_file() and sidecar_path(file).exists() else Sidecar(kind="checkpoint")
    classes = int(model.classes or own.facts.get("classes") or len(own.labels or ()) or card.classes)
    wnids: Sequence[str] | None = own.wnids
    where = recipe.data.source
    if own.labels:
        labels, where = own.labels, sidecar_path(file).name
    elif (classes, card.classes) == (1000, 1000):
        labels, wnids = imagenet_classes()
    if len(labels) != classes:
        raise ModelError(
            f"{recipe.path}: {len(labels)} classes in {where}, {classes} in the network",
            "set model.classes, or name the data set that the weights were trained on",
        )
    network = build_model(card.name, classes)
    info = load_weights(network, card, model.weights, ema=model.ema)
    return Pretrained(card, network, info, list(labels), None if wnids is None else list(wnids))
