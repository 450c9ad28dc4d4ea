"""Whether two images are of one class, by an embedding engine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import open_with_any_outputs
from edgecnn.data.pairs import Pairs, squared_distances
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.data.sources.folder import decode
from edgecnn.errors import ArtifactError, DataError
from edgecnn.measure.features import run_features
from edgecnn.measure.verification import threshold_of
from edgecnn.results.verification import SamePair
from edgecnn.session import Array


def same(
    engine: str | os.PathLike[str],
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    threads: int | None = None,
    trust: bool = False,
) -> SamePair:
    """Whether two image files are of one class: their squared distance against the threshold of the engine's sidecar.

        import edgecnn as ec
        found = ec.same("e.int8.onnx", "a.jpg", "b.jpg")
        found.same, found.distance, found.threshold

    Raises `ArtifactError` for an engine that gives no embedding, `MeasurementError` for one without a threshold, and
    `DataError` for an image that cannot be read.
    """
    engine, paths = Path(engine), (Path(first), Path(second))
    sidecar = read_sidecar(engine)
    threshold = threshold_of(engine, sidecar).threshold
    if sidecar.preprocessing is None:
        raise ArtifactError(f"{engine}: its sidecar has no preprocessing", "build it again from the exported graph")
    preprocessing = preprocessing_from_json(sidecar.preprocessing)
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such image", "check the path")
    rows: list[Array] = []
    with open_with_any_outputs(engine, threads, trust) as session:
        for path in paths:
            image = preprocessing.tensor(decode(path), "normalised")
            rows.append(run_features(session, image[None])[session.output.name])
    [distance] = squared_distances(np.concatenate(rows), Pairs(np.array([0]), np.array([1]), np.array([True])))
    if not np.isfinite(distance):
        raise DataError(f"{engine}: its embedding of one of the images is not finite", "validate it")
    names = (str(paths[0]), str(paths[1]))
    return SamePair(names, float(distance), threshold, bool(distance <= threshold))
