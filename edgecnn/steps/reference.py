"""Save the predictions that engines are compared with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path, verified_sidecar
from edgecnn.artifact.write import check_output
from edgecnn.data.dataset import Dataset
from edgecnn.errors import ArtifactError, ModelError, WriteError
from edgecnn.graph.decision import LOGIT, decision_threshold
from edgecnn.limits import what_lacks
from edgecnn.machine.threads import allowed_threads
from edgecnn.measure.predict import write_predictions
from edgecnn.recipe.factory import names_factory
from edgecnn.recipe.schema import DataSettings, ModelSettings, Recipe
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_at_least, require_packages
from edgecnn.steps._images import Progress, open_images
from edgecnn.steps._own import OwnSource, open_own, sidecar_of_own, stem_of
from edgecnn.steps._provenance import derived
from edgecnn.steps._sessions import (
    CHECKPOINT,
    VALIDATION_BATCH,
    device_of_session,
    open_reference_source,
    require_named,
)
from edgecnn.steps._shared import is_first, predict_shared
from edgecnn.steps.train import take_weights
from edgecnn.zoo import find_model

if TYPE_CHECKING:
    from torch import nn


def reference(
    source: FilePath | nn.Module,
    output: FilePath | None = None,
    *,
    data: FilePath,
    threads: int | None = None,
    dataset: Dataset | None = None,
    facts: dict[str, str] | None = None,
    progress: Progress | None = None,
    preprocess: FilePath = "",
    labels: Sequence[str] | FilePath | None = None,
    checkpoint: FilePath | None = None,
    trust_code: bool = False,
) -> Path:
    """Write the predictions that engines are compared with: logits [N, classes] of the test images of `data`.

        import edgecnn as ec
        ref = ec.reference("mobilenet_v2", data="imgs/val")
        ec.validate("m.int8.onnx", ref, data="imgs/val").top1.drop_pp

    `source` is a checkpoint (run in PyTorch), a graph (in ONNX Runtime), or a network of the zoo, whose published
    weights are then written beside the predictions as a checkpoint; or an own network, as `ec.export` takes it, with
    its `preprocess`, its `labels` and its weights in `checkpoint`. `dataset` are the images where the caller has
    opened them; `facts` are added to the sidecar. Without an `output` the predictions lie beside the source, as
    reference.npz (of model.safetensors) or X.reference.npz. Raises `ArtifactError` for another kind of file,
    `ModelError` for a network without published weights, and the errors of the data set.
    """
    output, data = path_or_none(output), os.fspath(data)
    require_at_least(1, threads=threads)
    if not isinstance(source, (str, os.PathLike)) or names_factory(os.fspath(source)):
        own = source if not isinstance(source, os.PathLike) else os.fspath(source)
        named = OwnSource(own, path_or_none(checkpoint), None, labels, preprocess, trust_code)
        return _own_reference(named, output, data, threads, progress)
    if preprocess or labels is not None or checkpoint is not None:
        raise ModelError(
            f"{os.fspath(source)}: --preprocess, --labels and --checkpoint are of an own network, FILE.py:FUNCTION",
            "a checkpoint or a graph is named itself, and has its preprocessing in its sidecar",
        )
    source = _weights_of(os.fspath(source), output, data) or Path(source)
    output = output or _beside(source)
    if not source.is_file():
        raise ArtifactError(f"{source}: {what_lacks(source)}", "name a checkpoint (.safetensors) or a graph (.onnx)")
    check_output(output, ".npz", source)
    require_named(source)
    sidecar = verified_sidecar(source) if sidecar_path(source).exists() else Sidecar(kind="graph")
    if sidecar.embeds:
        from edgecnn.steps.verification import reference_embeddings

        settings: Any = {"threads": threads, "dataset": dataset, "facts": facts, "progress": progress}
        return reference_embeddings(source, output, data=data, **settings)
    chosen = dataset or open_images(sidecar, data, "test")
    with open_reference_source(source, threads, trust_code=trust_code) as session:
        threshold = decision_threshold(source, sidecar, session.output)
        predictions = predict_shared(
            session,
            chosen,
            batch=VALIDATION_BATCH,
            workers=threads or allowed_threads(),
            progress=progress,
            threshold=threshold,
            contract=sidecar.contract,
        )
        device = device_of_session(session)
    if is_first():
        fields = {"data.source": data}
        made = derived(sidecar, output, (source,), step="reference", kind="predictions", fields=fields, facts=facts)
        write_predictions(output, predictions, replace(made, device=device))
    return output


def _own_reference(
    source: OwnSource, output: Path | None, data: str, threads: int | None, progress: Progress | None
) -> Path:
    require_packages("train")
    from edgecnn.pytorch.reference import open_module

    made, labels = open_own(source)
    output = output or Path(f"{stem_of(made.card.name)}.reference.npz")
    check_output(output, ".npz", *source.given)
    sidecar = sidecar_of_own(made, output, labels)
    images = open_images(sidecar, data, "test")
    with open_module(made.network, made.card, threads) as session:
        predictions = predict_shared(
            session,
            images,
            batch=VALIDATION_BATCH,
            workers=threads or allowed_threads(),
            progress=progress,
            threshold=LOGIT,
        )
        device = device_of_session(session)
    if is_first():
        parents, fields = (*made.files, *source.given), {"data.source": data}
        told = derived(sidecar, output, parents, step="reference", kind="predictions", fields=fields)
        write_predictions(output, predictions, replace(told, device=device))
    return output


def _beside(source: Path) -> Path:
    made = named(source, "reference.npz")
    return made.with_name("reference.npz") if made.name == "model.reference.npz" else made


def _weights_of(source: str, output: Path | None, data: str) -> Path | None:
    """The published weights of the network named `source`, as a checkpoint beside the predictions; None for a file."""
    if Path(source).suffix or Path(source).exists() or Path(source).name != source:
        return None
    card = find_model(source)
    checkpoint = (output.parent if output else Path()) / f"{card.name}{CHECKPOINT}"
    if checkpoint.exists():
        known = read_sidecar(checkpoint).facts if sidecar_path(checkpoint).exists() else {}
        if (known.get("model"), known.get("weights")) != (card.name, "default"):
            raise WriteError(
                f"{checkpoint}: would be overwritten by the published weights of {card.name}",
                f"name {checkpoint} itself as the reference, or write to another folder with -o",
            )
        return checkpoint
    published = Recipe(model=ModelSettings(card.name, weights="default"), data=DataSettings(data))
    take_weights(published, checkpoint)
    return checkpoint
