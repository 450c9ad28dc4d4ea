"""Classify single images with an engine, by the preprocessing and the labels that travel in its sidecar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import open_engine
from edgecnn.contract import InputForm
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.data.sources.folder import decode
from edgecnn.errors import ArtifactError, DataError
from edgecnn.graph.decision import decision_threshold
from edgecnn.measure.served import scores_of
from edgecnn.session import Array, class_probabilities, class_scores


def classify(
    engine: Path,
    images: Sequence[Path],
    threads: int | None,
    trust: bool,
    unreadable: Callable[[Path, DataError], None] | None = None,
) -> list[dict[str, Any]]:
    """For each image a dict with `image` and `top5`: label, class index and probability, best first; one output decides
    between two classes.

    Raises `ArtifactError` for an engine whose preprocessing is not known, `DataError` for an unreadable image, which
    goes to `unreadable` where that is given, and is left out.
    """
    with open_engine(engine, threads, trust) as session:
        sidecar = read_sidecar(engine)
        if sidecar.preprocessing is None:
            raise ArtifactError(
                f"{engine}: its sidecar has no preprocessing, so an image cannot be prepared for it",
                "`edgecnn import --preprocess` adds it to a graph that came from elsewhere",
            )
        preprocessing = preprocessing_from_json(sidecar.preprocessing)
        threshold = decision_threshold(engine, sidecar, session.output)
        contract = sidecar.contract
        rows = []
        for path in images:
            try:
                image = _read(path, preprocessing, contract.input)
            except DataError as exc:
                if unreadable is None:
                    raise
                unreadable(path, exc)
                continue
            logits = scores_of(session.run_all({session.input.name: image[None]}), session, contract)[:1]
            if not np.isfinite(logits).all():
                raise ArtifactError(f"{engine}: logits are not finite for {path}", "validate it: `edgecnn validate`")
            (probability,), (scores,) = (
                class_probabilities(logits, threshold, contract.output),
                class_scores(logits, threshold),
            )
            names = sidecar.labels or [str(k) for k in range(len(scores))]
            best = np.argsort(-scores, kind="stable")[:5]
            top5 = [{"label": names[k], "class": int(k), "probability": round(float(probability[k]), 6)} for k in best]
            rows.append({"image": str(path), "top5": top5})
    if not rows:
        raise DataError(f"none of the {len(images)} images can be read", "without --skip-corrupt the first says why")
    return rows


def _read(path: Path, preprocessing: Preprocessing, form: InputForm) -> Array:
    if path.is_dir():
        raise DataError(f"{path}: is a folder, not an image", f"name its files, for example {path}/*.jpg")
    if not path.exists():
        raise DataError(f"{path}: no such image", "check the path")
    picture = decode(path)
    try:
        return preprocessing.tensor(picture, form)
    except DataError as exc:
        raise DataError(f"{path}: {exc.message}", exc.hint) from exc
