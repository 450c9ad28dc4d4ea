"""Calibration images of a graph of which no image is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of, sidecar_path
from edgecnn.contract import MAX_DIFFERENCE
from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import ArtifactError, EdgecnnError
from edgecnn.session import Array
from edgecnn.steps._arguments import load_torch, require_packages
from edgecnn.steps._images import Progress

if TYPE_CHECKING:
    from torch import nn

IMAGES, STEPS = 32, 60
NAME = "made from batch normalization"


def make_calibration_images(graph: Path, *, trust_code: bool = False, progress: Progress | None = None) -> Dataset:
    """Images that the network behind `graph` takes for its training images, as the graph takes them; the same to the
    bit each time. Raises `ArtifactError` where the weights that the graph was exported from cannot be found, and
    `ModelError` for a network without batch normalization."""
    require_packages("train")
    load_torch()
    from edgecnn.pytorch.data_free import make_images
    from edgecnn.pytorch.threads import torch_threads

    source = read_sidecar(graph) if sidecar_path(graph).exists() else Sidecar(kind="graph")
    _require_known(graph, source)
    preprocessing = preprocessing_from_json(source.preprocessing or {})
    pixels = source.contract.calibrated_input != "normalised"
    network = _network_of(graph, source, trust_code).eval().requires_grad_(False)
    with torch_threads(1):  # with more, sums are in another order
        try:
            made = make_images(network, preprocessing, IMAGES, steps=STEPS, progress=progress)
        except EdgecnnError as exc:
            raise type(exc)(f"{graph}: {exc.message}", exc.hint) from exc
        dataset = _dataset(_as_pixels(made, preprocessing) if pixels else made)
        _require_same(graph, dataset.subset([0, 1]), _logits_of(network, made[:2]))
    return dataset


def _require_known(graph: Path, source: Sidecar) -> None:
    """Raises `ArtifactError` unless `graph` is float32, gives classes, and its sidecar says of which network it is."""
    if source.precision_requested not in ("", "fp32"):
        raise ArtifactError(
            f"{graph}: its precision is {source.precision_requested}, and --data-free takes a float32 graph",
            "give the float32 graph that it was made from",
        )
    facts = source.facts
    named = isinstance(facts.get("model"), str) and type(facts.get("classes")) is int
    if not named or not (source.parents or isinstance(facts.get("weights"), str)) or source.preprocessing is None:
        raise ArtifactError(
            f"{graph}: does not say which network of edgecnn's export it is, and with which weights",
            "calibrate with images: --data",
        )
    source.require_classes(f"{graph}: --data-free")


def _logits_of(network: nn.Module, images: Array) -> Array:
    import torch

    with torch.no_grad():
        logits: Array = network(torch.from_numpy(images)).numpy()
    return logits


def _as_pixels(images: Array, preprocessing: Preprocessing) -> Array:
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return ((images * std + mean) * 255).clip(0, 255)


def _dataset(images: Array) -> Dataset:
    return Dataset(
        name=f"{len(images)} images {NAME}",
        ids=tuple(f"made/{k:04}" for k in range(len(images))),
        labels=None,
        label_names=None,
        preprocessing=None,
        content=lambda k: images[k].tobytes(),
        image=None,
        array=lambda k: images[k],
    )


def _network_of(graph: Path, source: Sidecar, trust_code: bool) -> nn.Module:
    """The network that `graph` was exported from, with its weights."""
    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.reference import open_reference
    from edgecnn.pytorch.weights import load_weights
    from edgecnn.zoo import find_model

    checkpoint = _checkpoint_of(graph, source)
    if checkpoint is not None and sidecar_path(checkpoint).exists() and read_sidecar(checkpoint).kind == "checkpoint":
        return open_reference(checkpoint, trust_code=trust_code).network
    if "origin" in source.facts:
        raise ArtifactError(
            f"{graph}: of an own network, whose code is not run here but behind a checkpoint of edgecnn",
            "calibrate with images: --data",
        )
    card = find_model(source.facts["model"])
    _require_classes(graph, source.facts["classes"] or card.classes)
    network = build_model(card.name, source.facts["classes"] or None)
    load_weights(network, card, str(checkpoint or source.facts["weights"]))
    return network


def _require_classes(graph: Path, classes: int) -> None:
    """Before a network of so many is made; raises `ArtifactError` where the graph gives another number."""
    from edgecnn.graph.serving import load_body

    given = load_body(graph).graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if classes != given:
        raise ArtifactError(
            f"{graph}: gives {given} logits, and its sidecar says {classes} classes",
            "export it again, or calibrate with images: --data",
        )


def _checkpoint_of(graph: Path, source: Sidecar) -> Path | None:
    """The file of weights among a graph's parents; None where they were published or random ones."""
    for name, digest in source.parents.items():
        path = graph.parent / name
        if not path.is_file() or sha256_of(path) != digest:
            found = "other weights than those that" if path.is_file() else "no weights there, which"
            raise ArtifactError(
                f"{path}: {found} {graph} was exported from",
                "put them back, or calibrate with images: --data",
            )
        return path
    return None


def _require_same(graph: Path, images: Dataset, expected: Array) -> None:
    """Raises `ArtifactError` where the graph is not of the network that gave the logits `expected`."""
    from edgecnn.graph.ptq.candidates import compute_logits
    from edgecnn.graph.serving import load_body

    found = compute_logits(load_body(graph), images)
    if not np.abs(found - expected).max() <= MAX_DIFFERENCE * np.abs(expected).max():
        raise ArtifactError(
            f"{graph}: gives other logits than the network with the weights that its sidecar names",
            "export it again, or calibrate with images: --data",
        )
