"""One engine against its reference on a data set, and where on the way from one to the other predictions moved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of, sidecar_path
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.contract import Geometry
from edgecnn.data.dataset import Dataset, spread
from edgecnn.data.geometry import serve_as
from edgecnn.data.preprocess import first_difference
from edgecnn.diagnose.stages import EXPLAINED_DB, Hop, Rung, climb
from edgecnn.errors import ArtifactError, MeasurementError, RecipeError
from edgecnn.graph.decision import decision_threshold
from edgecnn.machine.threads import allowed_threads
from edgecnn.measure.classification import measure_accuracy, require_comparable
from edgecnn.measure.decision import decision_thresholds
from edgecnn.measure.geometry import measure_serving_loss
from edgecnn.measure.predict import Predictions, Progress, predict, read_predictions
from edgecnn.recipe.schema import DecisionSettings, OrtProvider, fields_of
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.accuracy import Accuracy, AccuracyFile
from edgecnn.session import Session
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_one_of
from edgecnn.steps._foreign import open_compared, sidecar_beside
from edgecnn.steps._images import open_images, without_images
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps._sessions import CHECKPOINT, GRAPH, batch_of, device_of_session, engine_info, open_reference_source
from edgecnn.steps._shared import is_first, predict_shared
from edgecnn.steps.ensemble import describe_used

STAGE_IMAGES = 512
STAGE_NODE_IMAGES = 8


@dataclass(frozen=True)
class ValidateSettings:
    """How a validation is run; `batch` None takes the largest that the engine serves, up to 64. None of it changes the
    result."""

    batch: int | None = None
    threads: int | None = None
    strict: bool = False
    trust: bool = False
    trust_code: bool = False
    provider: OrtProvider | None = None


def validate(
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
    trust_code: bool = False,
    threshold: float | dict[str, float] | None = None,
    reject: bool = False,
    dataset: Dataset | None = None,
    geometry: Geometry | None = None,
    facts: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """Accuracy of an engine or a graph against its reference, paired on the test images of `data`.

        import edgecnn as ec
        found = ec.validate("m.int8.plan", "m.reference.npz", data="imgs/val")
        found.top1.drop_pp, found.top1.drop_ci_pp, found.agreement_pct

    The `reference` is saved predictions, a graph or a checkpoint; an engine without a sidecar, which another tool made,
    is fed by its preprocessing, channels last where its input has them so, and judged by its labels. Shares are in per
    cent, drops in percentage points with 95 % intervals (Newcombe 1998). At most `batch` images [N, C, H, W] run at
    once (left out: what the engine serves, up to 64), which changes no result; `provider` is what of ONNX Runtime runs
    a graph (cpu or cuda; an engine has its own), `strict` stops at an unreadable image, `trust` loads a plan that has
    no sidecar, `trust_code` runs the Python file that the reference's network is made by. `name` is the engine's in
    reports (left out: its file's stem), `dataset` are the images where the caller has opened them. A `threshold`, or
    one by class name, is the probability at which a class is decided, and `reject` says that below it nothing is:
    decisions are then compared too. With a `geometry` the engine also sees the images resized and cropped as the
    serving side does, and what that loses is the result's `serving`. With an `output` the result is written there with
    `facts` in its provenance, and a killed run goes on where it stopped. Raises `MeasurementError` before anything is
    run where the two cannot be compared, `RecipeError` for a threshold that is none, and the errors of engine and data.
    """
    engine, reference, output = Path(engine), Path(reference), path_or_none(output)
    require_at_least(1, batch=batch, threads=threads)
    if provider is not None:
        require_one_of("provider", provider, OrtProvider)
    decision = record_from_mapping(
        DecisionSettings,
        {"threshold": threshold, "reject": reject},
        "the decision",
        "one threshold from 0 to 1, or one for each class by name",
        RecipeError,
    )
    if geometry is not None:
        require_one_of("geometry", geometry, Geometry)
    settings, data = ValidateSettings(batch, threads, strict, trust, trust_code, provider), os.fspath(data)
    if output is not None:
        check_output(output, ".json", engine, reference)
    sidecar = sidecar_beside(engine, reference)
    chosen = dataset or open_images(sidecar, data, "test")
    served = None if geometry is None else serve_as(chosen, geometry)
    expected = _reference_predictions(reference, sidecar, chosen, settings)
    decision_thresholds(decision, chosen.label_names or (), expected.classes)
    run = _Runs(engine, sidecar, settings, output, expected, len(chosen) * (1 if served is None else 2), progress)
    with open_compared(engine, settings.threads, settings.trust, provider=provider) as session:
        found = run(session, chosen)
        accuracy = measure_accuracy(name or engine.stem, found, expected, decision=decision)
        told = (*describe_used(sidecar, found.sha256s), *without_images(sidecar))
        accuracy = dataclasses.replace(accuracy, findings=(*accuracy.findings, *told))
        if served is not None and geometry is not None and not accuracy.nan_count:
            loss = measure_serving_loss(geometry, run(session, served, f".{geometry}"), found)
            accuracy = dataclasses.replace(accuracy, serving=loss)
        device = device_of_session(session)
    if output is not None and is_first():
        made = derived(
            sidecar,
            output,
            (engine, reference),
            step="validate",
            kind="accuracy",
            fields={
                "data.source": data,
                **fields_of("decision", decision),
                **({"input.geometry": geometry} if geometry else {}),
            },
            facts=facts,
        )
        made = dataclasses.replace(made, device=device)
        write_json_artifact(
            output,
            to_plain(AccuracyFile(accuracy=accuracy, engine=engine_info(engine, sidecar, provider))),
            made,
        )
    run.forget()
    return accuracy


class _Runs:
    """Runs of one engine over images that must be the `known` ones, each with a journal beside `output` from which a
    killed one goes on."""

    def __init__(
        self,
        engine: Path,
        sidecar: Sidecar,
        settings: ValidateSettings,
        output: Path | None,
        known: Predictions,
        total: int,
        progress: Progress | None,
    ) -> None:
        self._engine, self._sidecar, self._settings = engine, sidecar, settings
        self._output, self._known, self._total, self._progress = output, known, total, progress
        self._done = 0
        self._journals: list[Path] = []

    def __call__(self, session: Session, images: Dataset, ending: str = "") -> Predictions:
        output, sidecar, settings = self._output, self._sidecar, self._settings
        before, progress = self._done, self._progress
        journal = None if output is None else output.with_name(f".{output.name}{ending}.partial")
        self._journals += [journal] if journal else []
        self._done += len(images)
        return predict_shared(
            session,
            images,
            batch=batch_of(session, sidecar, settings.batch),
            workers=settings.threads or allowed_threads(),
            progress=None if progress is None else lambda done, _: progress(before + done, self._total),
            strict=settings.strict,
            journal=journal,
            identity=sidecar.sha256 or sha256_of(self._engine),
            threshold=decision_threshold(self._engine, sidecar, session.output),
            contract=sidecar.contract,
            known=self._known,
        )

    def forget(self) -> None:
        """Remove the journals: what they were for is written."""
        for journal in self._journals:
            journal.unlink(missing_ok=True)


def compare_stages(
    engine: Path,
    reference: Path,
    *,
    data: str,
    settings: ValidateSettings | None = None,
    geometry: Geometry | None = None,
) -> list[Hop]:
    """The hops from the reference over the graphs that `engine` was made from to `engine`, and with a `geometry` to the
    engine on images that the serving side has resized and cropped, on at most 512 images.

    The graphs are found by the parents in the sidecars, and before a graph of INT8 around FP16 the FP16 graph of the
    same float one, where it lies beside it. Raises `MeasurementError` when there is nothing in between to
    look at.
    """
    settings, sidecar = settings or ValidateSettings(), sidecar_beside(engine, reference)
    contract = sidecar.contract
    if contract.output != "logits":
        raise MeasurementError(
            f"{engine}: gives {contract.output}, and stages are compared by their logits",
            "leave --stages out, or compare the same recipe's graphs exported with --output logits",
        )
    whole = open_images(sidecar, data, "test")
    dataset = whole.subset(spread(whole, STAGE_IMAGES))
    first = _reference_predictions(reference, sidecar, dataset, settings, part=True)
    alike = reference.suffix == ".onnx" and sidecar_of(reference).contract.input == contract.input
    rungs = [Rung(reference.name, "fp32", first, reference if alike else None)]
    for path in _stages(engine):
        if path.resolve() == reference.resolve():
            continue
        own = sidecar if path == engine else sidecar_of(path)
        found = _predict_stage(path, own, dataset, settings, first, settings.provider if path == engine else None)
        graph = path if path.suffix == ".onnx" and own.kind != "engine" else None
        rungs.append(Rung(path.name, _precision(path, own, settings.provider), found, graph))
    position = {image: k for k, image in enumerate(dataset.ids)}
    readable = [position[image] for image in rungs[-1].predictions.ids]
    some = readable[:: max(1, len(readable) // STAGE_NODE_IMAGES)][:STAGE_NODE_IMAGES]
    if geometry is not None:
        served = _predict_stage(engine, sidecar, serve_as(dataset, geometry), settings, None, settings.provider)
        served = dataclasses.replace(served, preprocessing_sha256=first.preprocessing_sha256)
        rungs.append(Rung(f"{engine.name} served as {geometry}", rungs[-1].precision, served))
    images = dataset.in_form(contract.calibrated_input)
    return climb(rungs, np.stack([images.tensor(k) for k in some]))


def _predict_stage(
    path: Path,
    sidecar: Sidecar,
    dataset: Dataset,
    settings: ValidateSettings,
    known: Predictions | None,
    provider: OrtProvider | None,
) -> Predictions:
    with open_compared(path, settings.threads, settings.trust, provider=provider) as session:
        return predict(
            session,
            dataset,
            batch=batch_of(session, sidecar, settings.batch),
            strict=settings.strict,
            threshold=decision_threshold(path, sidecar, session.output),
            contract=sidecar.contract,
            known=known,
        )


def _reference_predictions(
    reference: Path, engine: Sidecar, dataset: Dataset, settings: ValidateSettings, part: bool = False
) -> Predictions:
    """Saved or made now; `part` takes those of `dataset` alone out of saved ones."""
    if not reference.is_file():
        raise ArtifactError(
            f"{reference}: no such file", "make it with `edgecnn reference SOURCE --data D -o reference.npz`"
        )
    if reference.suffix not in (".npz", GRAPH, CHECKPOINT):
        raise ArtifactError(
            f"{reference}: neither saved predictions nor a graph or a checkpoint",
            "name an .npz, .onnx or .safetensors; `edgecnn reference SOURCE --data D -o reference.npz` makes one",
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
        with open_reference_source(reference, settings.threads, trust_code=settings.trust_code) as session:
            threshold = decision_threshold(reference, known, session.output)
            batch = batch_of(session, known, settings.batch)
            return predict_shared(
                session,
                dataset,
                batch=batch,
                strict=settings.strict,
                threshold=threshold,
                contract=known.contract,
            )
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
        output=like.output,
    )


def _precision(path: Path, sidecar: Sidecar, provider: OrtProvider | None) -> str:
    """What was asked for, or what a graph holds; the coarsest where neither tells."""
    told = engine_info(path, sidecar, provider).precision_requested
    return told if told in EXPLAINED_DB else "int8"


def _stages(engine: Path) -> list[Path]:
    """The graphs of edgecnn that `engine` was made from, the first one first, as far as they are here; then `engine`.

    A graph from elsewhere is left out: importing it gave its tensors other names. Raises `ArtifactError` for another
    graph than the one that a stage was made from.
    """
    stages = [engine]
    while found := next(_parents(stages[0]), None):
        parent, digest = found
        if (known := sha256_of(parent)) != digest or any(map(parent.samefile, stages)):
            raise ArtifactError(
                f"{parent}: is not the graph that {stages[0].name} was made from: its sha256 is {known[:12]}, of that "
                f"one {digest[:12]}",
                f"copy that graph here, or make {stages[0].name} again from this one",
            )
        half = _fp16_beside(stages[0], digest)
        stages = [parent, *([half] if half else []), *stages]
    return stages


def _fp16_beside(graph: Path, digest: str) -> Path | None:
    """The FP16 graph of the same source, by its `digest`, as an INT8 `graph` around FP16, where it lies beside it."""
    own = read_sidecar(graph)
    if own.kind == "engine" or own.precision_requested != "int8" or own.fields.get("quantize.around") != "fp16":
        return None
    for path in sorted(graph.parent.glob("*.onnx")):
        try:
            known = read_sidecar(path)
        except ArtifactError:  # of no stage
            continue
        if known.kind == own.kind and known.precision_requested == "fp16" and digest in known.parents.values():
            return path
    return None


def _parents(path: Path) -> Iterator[tuple[Path, str]]:
    """The graphs with a sidecar that are here, of those that `path` was made from, and their sha256; of an ensemble
    none, since it is none of its members in another precision."""
    if not sidecar_path(path).exists():
        return
    known = read_sidecar(path)
    graphs = {path.parent / name: digest for name, digest in known.parents.items() if name.endswith(GRAPH)}
    if "ensemble" in known.facts and len(graphs) > 1:
        return
    yield from ((p, digest) for p, digest in graphs.items() if p.is_file() and sidecar_path(p).exists())
