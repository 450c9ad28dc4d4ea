"""Embeddings of a reference, and of an engine beside them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar, sha256_of, verified_sidecar
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.backends import open_with_any_outputs
from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import first_difference
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.limits import what_lacks
from edgecnn.machine.threads import allowed_threads
from edgecnn.measure.classification import require_comparable
from edgecnn.measure.predict import Predictions, Progress, read_predictions, write_predictions
from edgecnn.measure.verification import measure_verification, threshold_of
from edgecnn.recipe.schema import OrtProvider
from edgecnn.records import to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.verification import ChosenThreshold, Verification
from edgecnn.session import Session
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_one_of
from edgecnn.steps._embeddings import open_unseen, pairs_in, predict_embeddings
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps._sessions import (
    CHECKPOINT,
    GRAPH,
    VALIDATION_BATCH,
    batch_of,
    device_of_session,
    engine_info,
    open_checkpoint,
)
from edgecnn.steps._shared import is_first
from edgecnn.steps.validate import ValidateSettings


def reference_embeddings(
    source: Path,
    output: Path,
    *,
    data: str,
    threads: int | None = None,
    dataset: Dataset | None = None,
    facts: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the embeddings [N, D] that engines are compared with, by the checkpoint or graph `source`, of the images of
    `data` that can test it; `dataset` are these where the caller has opened them."""
    sidecar = verified_sidecar(source)
    images = dataset or open_unseen(source, sidecar, data)
    with _open_source(source, threads) as session:
        found = predict_embeddings(
            session, images, batch=VALIDATION_BATCH, workers=threads or allowed_threads(), progress=progress
        )
        device = device_of_session(session)
    if is_first():
        fields = {"data.source": data}
        made = derived(sidecar, output, (source,), step="reference", kind="predictions", fields=fields, facts=facts)
        write_predictions(output, found, dataclasses.replace(made, device=device))
    return output


def validate_verification(
    engine: FilePath,
    reference: FilePath,
    output: FilePath | None = None,
    *,
    data: FilePath,
    name: str = "",
    batch: int | None = None,
    threads: int | None = None,
    provider: OrtProvider | None = None,
    strict: bool = False,
    trust: bool = False,
    dataset: Dataset | None = None,
    facts: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """How an embedding `engine` verifies beside its `reference` (saved embeddings, a graph or a checkpoint).

        import edgecnn as ec
        found = ec.validate_verification("e.int8.onnx", "reference.npz", data="digits")
        found.verification_pct, found.verification_drop_ci_pp, found.roc_auc

    Pairs are of images of `data` (at most 600) whose classes neither the training nor the threshold saw, two images
    each once, or LFW's own. Other arguments are as in `ec.validate`. Raises `ArtifactError`
    where one of the two is no embedding network, `MeasurementError` where they cannot be compared or no validation
    pairs have chosen a threshold, and the errors of the data.
    """
    engine, reference, output, data = Path(engine), Path(reference), path_or_none(output), os.fspath(data)
    require_at_least(1, batch=batch, threads=threads)
    if provider is not None:
        require_one_of("provider", provider, OrtProvider)
    settings = ValidateSettings(batch, threads, strict, trust, provider=provider)
    if output is not None:
        check_output(output, ".json", engine, reference)
    sidecar = sidecar_of(engine)
    chosen = threshold_of(engine, sidecar)
    images = dataset or open_unseen(engine, sidecar, data)
    known = _reference_of(reference, sidecar, chosen, images, settings)
    journal = None if output is None else output.with_name(f".{output.name}.partial")
    with open_with_any_outputs(engine, settings.threads, settings.trust, provider=settings.provider) as session:
        found = predict_embeddings(
            session,
            images,
            batch=batch_of(session, sidecar, settings.batch),
            workers=settings.threads or allowed_threads(),
            progress=progress,
            strict=settings.strict,
            journal=journal,
            identity=sidecar.sha256 or sha256_of(engine),
            known=known,
        )
        device = device_of_session(session)
    left_out = {*found.unreadable, *known.unreadable}
    ours, theirs = found.without(left_out), known.without(left_out)
    if ours.logits.shape[1] != theirs.logits.shape[1]:
        raise MeasurementError(
            f"the engine's embedding has {ours.logits.shape[1]} numbers, the reference's {theirs.logits.shape[1]}",
            "compare an engine with the reference that it was made from",
        )
    require_comparable(ours, theirs)
    measured = measure_verification(name or engine.stem, ours, theirs, pairs_in(data, ours), chosen)
    if output is not None and is_first():
        fields = {"data.source": data}
        made = derived(
            sidecar, output, (engine, reference), step="validate", kind="accuracy", fields=fields, facts=facts
        )
        file = AccuracyFile(verification=measured, engine=engine_info(engine, sidecar, settings.provider))
        write_json_artifact(output, to_plain(file), dataclasses.replace(made, device=device))
    if journal is not None:
        journal.unlink(missing_ok=True)
    return measured


def _reference_of(
    reference: Path, engine: Sidecar, chosen: ChosenThreshold, images: Dataset, settings: ValidateSettings
) -> Predictions:
    if not reference.is_file():
        raise ArtifactError(
            f"{reference}: {what_lacks(reference)}", "make it: `edgecnn reference SOURCE --data D -o reference.npz`"
        )
    known = sidecar_of(reference)
    if threshold_of(reference, known) != chosen:
        raise MeasurementError(
            f"{reference}: of another training than the engine: {_training(known)}, the engine's {_training(engine)}",
            "compare an engine with the network that it was made from: embeddings of two have nothing in common",
        )
    if difference := first_difference(engine.preprocessing or {}, known.preprocessing or {}):
        raise MeasurementError(
            f"{reference}: its preprocessing is not the engine's: {difference} in the reference",
            "make the reference again from the network that the engine was made from",
        )
    if reference.suffix == ".npz":
        return read_predictions(reference)
    with _open_source(reference, settings.threads) as session:
        return predict_embeddings(
            session,
            images,
            batch=batch_of(session, known, settings.batch),
            workers=settings.threads or allowed_threads(),
            strict=settings.strict,
        )


def _training(sidecar: Sidecar) -> str:
    told = sidecar.facts["verification"]
    return f"threshold {told['threshold']:.6g} by {told['validation_pairs']} pairs"


def _open_source(source: Path, threads: int | None) -> Session:
    if source.suffix == CHECKPOINT:
        return open_checkpoint(source, threads)
    if source.suffix == GRAPH:
        return open_with_any_outputs(source, threads)
    raise ArtifactError(f"{source}: not a checkpoint or a graph", "name a .safetensors or an .onnx file")
