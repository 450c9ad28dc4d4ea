"""Embeddings of the images that may test an embedding network, and the pairs of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.data.class_split import images_for_pairs, of_classes
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import has_test_split, open_dataset
from edgecnn.data.pairs import Pairs, all_pairs
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.data.sources.lfw import lfw, lfw_pairs, lfw_root
from edgecnn.errors import DataError
from edgecnn.output import say
from edgecnn.steps._shared import is_first, predict_shared

if TYPE_CHECKING:
    from edgecnn.measure.predict import Predictions
    from edgecnn.session import Session


def without_unseen(sidecar: Sidecar, dataset: Dataset) -> Dataset:
    """Images to calibrate an embedding network with: of the classes that it was trained on, where the data has those;
    images of other networks as they come. What is left out is said on stderr. Raises `DataError` where the data has
    such classes, and no image of them."""
    if not sidecar.embeds or dataset.labels is None:
        return dataset
    seen = sidecar.facts.get("verification", {}).get("train_classes", ())
    if not set(dataset.label_names or ()) & set(seen):
        return dataset
    kept = of_classes(dataset, seen)
    if not len(kept):
        raise DataError(
            f"{dataset.name}: none of its {len(dataset)} images is of a class that the network was trained on",
            f"calibrate with images of {', '.join(seen[:10])}: those of others are to test it",
        )
    if len(kept) < len(dataset) and is_first():
        others = [name for k, name in enumerate(dataset.label_names or ()) if k in dataset.labels and name not in seen]
        few = ", ".join(others[:10]) + (f" and {len(others) - 10} more" if len(others) > 10 else "")
        n = len(dataset)
        say(f"{dataset.name}: {n - len(kept)} of {n} images left out, of classes that did not train the network: {few}")
    return kept


def open_unseen(path: Path, sidecar: Sidecar, data: str) -> Dataset:
    """The images of `data` that can test an embedding network: of classes that neither its training nor its threshold
    saw, of the test split where there is one; or those in LFW's pairs. Raises `DataError` where there are none."""
    from edgecnn.measure.verification import threshold_of

    chosen = threshold_of(path, sidecar)
    preprocessing = preprocessing_from_json(sidecar.preprocessing) if sidecar.preprocessing else None
    known = {*chosen.train_classes, *chosen.validation_classes}
    if (root := lfw_root(data)) is not None:
        faces = lfw(root, preprocessing)
        if seen := sorted(known.intersection(faces.label_names or ())):
            raise DataError(
                f"{data}: its pairs have {len(seen)} people who trained the network or chose its threshold, the first "
                f"is {seen[0]}",
                "hold the people of pairs.txt out of training: [verification] test_classes",
            )
        return faces
    whole = open_dataset(data, preprocessing, "test" if has_test_split(data) else "train")
    if whole.labels is None:
        raise DataError(
            f"{whole.name}: has no classes, and pairs are of one class or of two", "put images in a folder of each"
        )
    unseen = [name for name in whole.label_names or () if name not in known]
    if not unseen:
        raise DataError(
            f"{whole.name}: all of its classes trained the network or chose its threshold",
            "name images of other classes",
        )
    return images_for_pairs(of_classes(whole, unseen))


def pairs_in(data: str, predictions: Predictions) -> Pairs:
    """LFW's own pairs, or every two images. Raises `DataError` where unreadable images leave none of either kind."""
    if (root := lfw_root(data)) is not None:
        position = {name: k for k, name in enumerate(predictions.ids)}
        rows = [(position[a], position[b], s) for a, b, s in lfw_pairs(root) if a in position and b in position]
        first, second, same = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        pairs = Pairs(np.asarray(first, np.int64), np.asarray(second, np.int64), np.asarray(same, np.bool_))
    else:
        pairs = all_pairs(predictions.labels)
    if pairs.same.all() or not pairs.same.any():
        raise DataError(f"{predictions.dataset}: its readable images make no pairs of both kinds", "check the files")
    return pairs


def predict_embeddings(session: Session, dataset: Dataset, **settings: Any) -> Predictions:
    """Embeddings [N, D] of every image, as the `logits` of predictions; the rest is as `predict` does it."""
    found = predict_shared(session, dataclasses.replace(dataset, labels=None), **settings)
    assert dataset.labels is not None
    position = {name: k for k, name in enumerate(dataset.ids)}
    labels = dataset.labels[[position[name] for name in found.ids]]
    return dataclasses.replace(found, labels=labels)
