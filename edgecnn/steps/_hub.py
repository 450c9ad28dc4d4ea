"""A network of the Hub as `export` takes it: one that `edgecnn push` put there, or one of timm."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.hub import CONFIG, WEIGHTS, HubFiles
from edgecnn.artifact.sidecar import read_json, verified_sidecar
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import ModelError
from edgecnn.graph.importing.labels import Labels
from edgecnn.recipe.schema import ModelSettings

if TYPE_CHECKING:
    from edgecnn.pytorch.own import OwnNetwork

MOST_CLASSES = 100_000
OF_PREPROCESSING = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")  # as timm writes it
OTHERS = "export takes what `edgecnn push` has written, and networks of timm; a graph goes through `edgecnn import`"


def fetch(address: str) -> HubFiles:
    """The network's files, in the folder of downloaded weights."""
    from edgecnn.artifact.hub import fetch_network
    from edgecnn.pytorch.download import cache_folder

    return fetch_network(address, cache_folder() / "hub")


def network_of_zoo(found: HubFiles) -> str | None:
    """The network of the zoo whose checkpoint lies there with its sidecar; None without a sidecar. Raises `ModelError`
    for one that is made by code, which stays with its owner."""
    if f"{WEIGHTS}.json" not in found.files:
        return None
    facts = verified_sidecar(found.files[WEIGHTS]).facts
    name = facts.get("model")
    if not isinstance(name, str) or "origin" in facts:
        raise ModelError(f"{found.address}: a checkpoint of {name}, which is not of the zoo", OTHERS)
    return name


def open_timm(found: HubFiles) -> tuple[OwnNetwork, Labels | None]:
    """The network of timm that `config.json` names, with its preprocessing and labels; raises `ModelError` for any
    other, and as `load_own` does."""
    from edgecnn.pytorch.own import load_own

    content = read_json(found.files[CONFIG]) if CONFIG in found.files else {}
    name, given = content.get("architecture"), content.get("pretrained_cfg")
    if not isinstance(name, str) or not isinstance(given, dict):
        raise ModelError(f"{found.address}: {CONFIG} names no architecture of timm", OTHERS)
    classes = content.get("num_classes", given.get("num_classes"))
    if not isinstance(classes, int) or not 0 < classes <= MOST_CLASSES:
        raise ModelError(f"{found.address}: {CONFIG}: num_classes = {classes!r}", OTHERS)
    preprocessing = preprocessing_from_json({key: given[key] for key in OF_PREPROCESSING if key in given})
    settings = ModelSettings(timm=name, classes=classes, weights=str(found.files[WEIGHTS]))
    made = load_own(settings, lambda _: preprocessing)
    names = content.get("label_names")
    labels = Labels(tuple(map(str, names))) if isinstance(names, list) and len(names) == made.card.classes else None
    return dataclasses.replace(made, weights=dataclasses.replace(made.weights, weights_url=found.address)), labels


def stem_in(found: HubFiles) -> str:
    """What the files made of it are called: the repository's name."""
    return Path(found.address.partition("@")[0]).name
