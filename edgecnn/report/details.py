"""What a page shows beside a `RunReport`: read of the run's files, and of the images where they still are.

Nothing of it is needed: what is not here any more is left out, and the page says why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgecnn.artifact.run_folder import REPORT, ResultFile, TargetRun, read_gradients, read_report
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.contract import ServingContract
from edgecnn.data.calibration_set import UNDECODED, find_manifest, is_manifest, position_of, read_manifest
from edgecnn.data.dataset import Dataset, nfc
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import DataError, EdgecnnError
from edgecnn.measure.predict import Predictions, read_predictions
from edgecnn.report.thumbnail import thumbnail_uri
from edgecnn.results.gradients import GradientNorms
from edgecnn.results.report import RunReport
from edgecnn.session import class_scores

PICTURES = 36  # of the images that changed: most of them are seen by looking at these
LAYERS = 15  # of the tensors that make most noise


@dataclass(frozen=True)
class Confusion:
    """How often a label was taken for a class (-1: no finite logits), by the engine and by its reference."""

    name: str
    counts: Mapping[tuple[int, int], int]
    reference_counts: Mapping[tuple[int, int], int]


@dataclass(frozen=True)
class Picture:
    """An image that changed: `uri` holds it small, and `predictions` names the engines by the class they say."""

    id: str
    uri: str
    pixelated: bool
    label: int
    reference: int
    predictions: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class LayerNoise:
    """The tensors that make most of the noise in the logits, with their shares in per cent, of `n` that were looked at;
    `source` is the graph whose sidecar says it, "" for the engine's own."""

    shares: Sequence[tuple[str, float]]
    n: int
    source: str


@dataclass(frozen=True)
class RunDetails:
    """Of a target's `folder`: the `recipe` that its run carries, the `names` of the classes, and what is served.

    `judged` is when, `changed` how many images did, of which `pictures` show some; `noise` is of each engine where
    `quantize --explain` ran; `others` are the other judged targets of the run, `gradients` what its training recorded;
    `unseen` says why changed images are not shown, and `missing` what else is left out.
    """

    folder: str = ""
    recipe: str = ""
    judged: str = ""
    names: Sequence[str] = ()
    preprocessing: Preprocessing | None = None
    contract: ServingContract = field(default_factory=ServingContract)
    confusions: Sequence[Confusion] = ()
    pictures: Sequence[Picture] = ()
    changed: int = 0
    unseen: str = ""
    noise: Mapping[str, LayerNoise] = field(default_factory=dict)
    others: Sequence[RunReport] = ()
    gradients: GradientNorms | None = None
    missing: Sequence[str] = ()


def read_details(run: TargetRun) -> RunDetails:
    """What the files of a target say beside its results; raises `ArtifactError` for a damaged one."""
    made = {f.content.name: f.provenance for f in run.accuracies if f.provenance}
    first = next(iter(made.values()), None)
    verdict = run.verdict.provenance if run.verdict else None
    recipes = [path for path in run.folder.parent.glob("*.toml") if sidecar_path(path).is_file()]
    missing: list[str] = []
    predictions = _reference(run.accuracies, missing)
    names = tuple(first.labels or ()) if first else ()
    pictures, changed, unseen = _pictures(run.accuracies, first, predictions)
    return RunDetails(
        folder=str(run.folder),
        recipe=str(recipes[0]) if len(recipes) == 1 else "",
        judged=verdict.created if verdict else "",
        names=names or (predictions.label_names if predictions else ()),
        preprocessing=preprocessing_from_json(first.preprocessing) if first and first.preprocessing else None,
        contract=first.contract if first and not first.embeds else ServingContract(),
        confusions=tuple(_confusions(run.accuracies, predictions)) if predictions else (),
        pictures=pictures,
        changed=changed,
        unseen=unseen,
        noise=_noise(run),
        others=_others(run.folder, missing),
        gradients=read_gradients(run.folder.parent),
        missing=missing,
    )


def _reference(files: Sequence[ResultFile], missing: list[str]) -> Predictions | None:
    """The saved predictions that the accuracies are against."""
    paths = {f.path.parent / name for f in files for name in (f.provenance.parents if f.provenance else ())}
    saved = sorted(p for p in paths if p.suffix == ".npz")
    if saved and saved[0].is_file():
        return read_predictions(saved[0])
    if files:
        missing.append("the reference's predictions are not here: no confusion matrix")
    return None


def _confusions(files: Sequence[ResultFile], saved: Predictions) -> list[Confusion]:
    predicted = class_scores(saved.logits, saved.threshold).argmax(axis=1)
    position = {name: k for k, name in enumerate(saved.ids)}
    found = []
    for accuracy in (f.content.accuracy for f in files if f.content.accuracy):
        left_out = [position[name] for name in accuracy.unreadable if name in position]
        known = np.ones(len(saved.ids), bool)
        known[left_out] = False
        known &= saved.labels >= 0
        if accuracy.n_labelled != known.sum() or not all(c.id in position for c in accuracy.changed):
            continue
        ours = predicted.copy()
        for image in accuracy.changed:
            ours[position[image.id]] = image.engine
        both = (_pairs(saved.labels[known], said[known]) for said in (ours, predicted))
        found.append(Confusion(accuracy.name, *both))
    return found


def _pairs(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> dict[tuple[int, int], int]:
    width = int(max(labels.max(), predicted.max())) + 2 if len(labels) else 1
    codes, counts = np.unique(labels * width + predicted + 1, return_counts=True)
    return {(c // width, c % width - 1): n for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}


def _noise(run: TargetRun) -> dict[str, LayerNoise]:
    """What `quantize --explain` left in sidecars: in that which the engine was made from, else in the newest of a graph
    of the same scheme in the run's folder."""
    found = {}
    graphs = [(path, read_sidecar(path)) for path in run.folder.parent.glob("*.onnx") if sidecar_path(path).is_file()]
    newest = sorted(graphs, key=lambda pair: pair[1].created, reverse=True)
    for file in run.accuracies:
        engine = file.content.engine
        if engine.precision_requested != "int8":
            continue
        alike = [(path.name, made) for path, made in newest if made.scheme == engine.scheme]
        own = [("", file.provenance)] if file.provenance else []
        told = ((source, shares) for source, made in [*own, *alike] if (shares := _shares(made)))
        source, shares = next(told, ("", []))
        if shares:
            found[file.content.name] = LayerNoise(shares[:LAYERS], len(shares), source)
    return found


def _shares(made: Sidecar) -> list[tuple[str, float]]:
    """Each tensor's share, the largest first, with that of all weights; nothing where it was not measured."""
    rows, weights = made.facts.get("layer_noise"), made.facts.get("weights_logit_noise_pct")
    if not isinstance(rows, list):
        return []
    shares = [(str(r.get("tensor")), r.get("logit_noise_pct")) for r in rows if isinstance(r, dict)]
    known = [*shares, ("all weights", weights)]
    return sorted([(n, float(v)) for n, v in known if isinstance(v, (int, float))], key=lambda row: -row[1])


def _others(folder: Path, missing: list[str]) -> tuple[RunReport, ...]:
    found = []
    for path in sorted(folder.parent.glob(f"*/{REPORT}")):
        if path.parent.resolve() == folder.resolve():
            continue
        try:
            found.append(read_report(path)[0])
        except EdgecnnError as exc:
            missing.append(f"another target of the run cannot be read: {exc.message}")
    return tuple(found)


def _pictures(
    files: Sequence[ResultFile], sidecar: Sidecar | None, saved: Predictions | None
) -> tuple[tuple[Picture, ...], int, str]:
    """The images that most engines lost, then those that most changed; how many changed at all; and why some are not
    shown."""
    said: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    labels, lost = dict[str, tuple[int, int]](), dict[str, int]()
    for accuracy in (f.content.accuracy for f in files if f.content.accuracy):
        for image in accuracy.changed:
            said[image.id][image.engine].append(accuracy.name)
            labels[image.id] = image.label, image.reference
            lost[image.id] = lost.get(image.id, 0) + (image.reference == image.label)
    order = sorted(said, key=lambda i: (-lost[i], -sum(map(len, said[i].values())), i))
    chosen = order[:PICTURES]
    uris, unseen = _uris(chosen, sidecar, saved) if chosen and sidecar else ({}, "")
    found = tuple(
        Picture(i, *uris.get(i, ("", False)), *labels[i], {c: tuple(names) for c, names in said[i].items()})
        for i in chosen
    )
    return found, len(order), unseen


def _uris(
    chosen: Sequence[str], sidecar: Sidecar, saved: Predictions | None
) -> tuple[dict[str, tuple[str, bool]], str]:
    """Small copies of those images that are here, and are what the reference saw; and why some are not shown."""
    known, found = dict(zip(saved.ids, saved.sha256s, strict=False)) if saved else {}, dict[str, tuple[str, bool]]()
    try:
        dataset = _open(sidecar)
        position = position_of(dataset)
    except EdgecnnError as exc:
        return {}, f"The images are not shown: {exc.message}."
    for name in chosen:
        try:
            if name in position and known.get(name, "") in ("", dataset.sha256(position[name])):
                found[name] = thumbnail_uri(dataset, position[name])
        except DataError:
            continue
    left = len(chosen) - len(found)
    unseen = f"{left} of them are not here, or are other images by now: they are not shown." if left else ""
    return {name: uri for name, uri in found.items() if uri[0]}, unseen


def _open(sidecar: Sidecar) -> Dataset:
    source = str(sidecar.fields.get("data.source", ""))
    preprocessing = preprocessing_from_json(sidecar.preprocessing) if sidecar.preprocessing else UNDECODED
    if is_manifest(source):
        root = source.partition(".txt:")[2]
        source = root or read_manifest(find_manifest(source)).source
    return open_dataset(source, preprocessing, "test", [nfc(n) for n in sidecar.labels or ()], sidecar.wnids or ())
