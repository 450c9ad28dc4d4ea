"""One engine against its reference on a data set, and where on the way from one to the other predictions moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sha256_of, sidecar_path
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.backends import open_engine
from edgecnn.data.calibration_set import open_data
from edgecnn.data.dataset import Dataset, spread
from edgecnn.data.preprocess import first_difference, preprocessing_from_json
from edgecnn.diagnose.stages import Hop, Rung, climb
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.graph.decision import decision_threshold
from edgecnn.machine.cpu import available_cores
from edgecnn.measure.classification import Accuracy, measure_accuracy, require_comparable
from edgecnn.measure.predict import Predictions, Progress, predict, read_predictions
from edgecnn.measure.ten_crop import measure_ten_crop
from edgecnn.pipeline.sharing import is_first, predict_shared
from edgecnn.pipeline.single import VALIDATION_BATCH, open_reference_source
from edgecnn.session import Session

LADDER_IMAGES = 512
LADDER_NODE_IMAGES = 8


@dataclass(frozen=True)
class Settings:
    """How a validation is run; `batch` None takes the largest that the engine serves, up to 64."""

    batch: int | None = None
    threads: int | None = None
    strict: bool = False
    trust: bool = False


def validate_engine(
    engine: Path,
    reference: Path,
    data: str,
    settings: Settings,
    *,
    output: Path | None = None,
    provenance: Sidecar | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """Accuracy of `engine` against `reference` (saved predictions, a graph, a checkpoint) on the test images of `data`.

    With an `output` the result is written there, under `provenance` if given, and a killed run goes on where it
    stopped. Raises `MeasurementError`
    before anything is run where the two cannot be compared, and the errors of engine and data.
    """
    if output is not None:
        check_output(output, ".json", engine, reference)
    sidecar = sidecar_of(engine)
    dataset = _dataset(sidecar, data)
    expected = _reference_predictions(reference, sidecar, dataset, settings)
    journal = None if output is None else output.with_name(f".{output.name}.partial")
    with open_engine(engine, settings.threads, settings.trust) as session:
        found = predict_shared(
            session,
            dataset,
            batch=_batch(session, sidecar, settings),
            workers=settings.threads or available_cores(),
            progress=progress,
            strict=settings.strict,
            journal=journal,
            identity=sidecar.sha256 or sha256_of(engine),
            threshold=decision_threshold(engine, sidecar, session.output),
        )
    accuracy = measure_accuracy(engine.stem, found, expected)
    if output is not None and is_first():
        made_by = f"edgecnn validate {engine.name} --reference {reference.name} --data {data}"
        parents = parents_of(output, engine, reference)
        own = Sidecar(kind="accuracy", made_by=made_by, recipe=sidecar.recipe, parents=parents)
        write_json_artifact(output, accuracy.to_json(), provenance or own)
    if journal is not None:
        journal.unlink(missing_ok=True)
    return accuracy


def validate_ten_crop(engine: Path, data: str, settings: Settings, progress: Progress | None = None) -> dict[str, Any]:
    """Accuracy of `engine` with ten crops of each test image: an upper reference, beside what an engine does."""
    sidecar = sidecar_of(engine)
    with open_engine(engine, settings.threads, settings.trust) as session:
        batch, workers = _batch(session, sidecar, settings), settings.threads or available_cores()
        threshold = decision_threshold(engine, sidecar, session.output)
        return measure_ten_crop(
            _dataset(sidecar, data),
            lambda crops: predict_shared(
                session,
                crops,
                batch=batch,
                workers=workers,
                progress=progress,
                strict=settings.strict,
                threshold=threshold,
            ),
        )


def climb_ladder(engine: Path, reference: Path, data: str, settings: Settings) -> list[Hop]:
    """The hops from the reference over the graphs that `engine` was made from to `engine`, on at most 512 images.

    The graphs are found by the parents in the sidecars. Raises `MeasurementError` when there is nothing in between to
    look at.
    """
    sidecar = sidecar_of(engine)
    whole = _dataset(sidecar, data)
    dataset = whole.subset(spread(whole, LADDER_IMAGES))
    first = _reference_predictions(reference, sidecar, dataset, settings, part=True)
    rungs = [Rung(reference.name, "fp32", first, reference if reference.suffix == ".onnx" else None)]
    for path in _stages(engine):
        if path.resolve() == reference.resolve():
            continue
        own = sidecar_of(path)
        with open_engine(path, settings.threads, settings.trust) as session:
            threshold = decision_threshold(path, own, session.output)
            batch = _batch(session, own, settings)
            found = predict(session, dataset, batch=batch, strict=settings.strict, threshold=threshold)
        graph = path if path.suffix == ".onnx" and own.kind != "engine" else None
        rungs.append(Rung(path.name, own.precision_requested or "fp32", found, graph))
    position = {name: k for k, name in enumerate(dataset.ids)}
    readable = [position[name] for name in rungs[-1].predictions.ids]
    some = readable[:: max(1, len(readable) // LADDER_NODE_IMAGES)][:LADDER_NODE_IMAGES]
    return climb(rungs, np.stack([dataset.tensor(k) for k in some]))


def sidecar_of(path: Path) -> Sidecar:
    """The sidecar of an engine or graph, or an empty one for a file that came from elsewhere."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", "build it with `edgecnn build`, or check the path")
    return read_sidecar(path) if sidecar_path(path).exists() else Sidecar(kind="graph")


def _dataset(sidecar: Sidecar, data: str) -> Dataset:
    preprocessing = preprocessing_from_json(sidecar.preprocessing) if sidecar.preprocessing else None
    return open_data(data, preprocessing, "test", sidecar.labels or (), sidecar.wnids or ())


def _reference_predictions(
    reference: Path, engine: Sidecar, dataset: Dataset, settings: Settings, part: bool = False
) -> Predictions:
    """Saved or made now; `part` takes those of `dataset` alone out of saved ones."""
    if not reference.is_file():
        raise ArtifactError(
            f"{reference}: no such file", "make it with `edgecnn reference SOURCE --data D -o reference.npz`"
        )
    known = sidecar_of(reference)
    if engine.preprocessing and known.preprocessing:
        difference = first_difference(engine.preprocessing, known.preprocessing)
        if difference:
            raise MeasurementError(
                f"{reference}: its preprocessing is not the engine's: {difference} in the reference",
                "make the reference again from the network that the engine was made from",
            )
    if reference.suffix != ".npz":
        with open_reference_source(reference, settings.threads) as session:
            threshold = decision_threshold(reference, known, session.output)
            batch = _batch(session, known, settings)
            return predict_shared(session, dataset, batch=batch, strict=settings.strict, threshold=threshold)
    saved = read_predictions(reference)
    if part:
        return saved.without(set(saved.ids) - set(dataset.ids))
    left_out = set(saved.unreadable)
    require_comparable(_without_logits(dataset, saved).without(left_out), saved)
    return saved


def _without_logits(dataset: Dataset, like: Predictions) -> Predictions:
    """What predictions on `dataset` will look like, for finding a wrong reference before the engine has run."""
    n = len(dataset)
    return Predictions(
        ids=dataset.ids,
        labels=np.full(n, -1, np.int64) if dataset.labels is None else dataset.labels,
        logits=np.broadcast_to(np.zeros((1, like.logits.shape[1]), np.float32), (n, like.logits.shape[1])),
        preprocessing_sha256=dataset.preprocessing.sha256 if dataset.preprocessing else "",
        dataset=dataset.name,
        label_names=dataset.label_names or (),
        threshold=like.threshold,
    )


def _batch(session: Session, sidecar: Sidecar, settings: Settings) -> int:
    frozen = session.input.shape[0]
    if frozen is not None:
        return frozen
    profiles = sidecar.facts.get("profiles") or []
    largest = min([VALIDATION_BATCH, *(p["max"][0] for p in profiles)])
    return settings.batch or largest


def _stages(engine: Path) -> list[Path]:
    """The graphs of edgecnn that `engine` was made from, the first one first, as far as they are here; then `engine`.

    A graph from elsewhere is left out: importing it gave its tensors other names.
    """
    stages = [engine]
    while parents := [p for p in _parents(stages[0]) if p.suffix == ".onnx" and sidecar_path(p).exists()]:
        stages.insert(0, parents[0])
    return stages


def _parents(path: Path) -> Iterator[Path]:
    if sidecar_path(path).exists():
        yield from (path.parent / name for name in read_sidecar(path).parents)


@contextmanager
def opened(path: Path, threads: int | None, trust: bool) -> Iterator[Session]:
    """A session of an engine, a graph or a checkpoint."""
    session = (
        open_reference_source(path, threads) if path.suffix == ".safetensors" else open_engine(path, threads, trust)
    )
    with session as live:
        yield live
