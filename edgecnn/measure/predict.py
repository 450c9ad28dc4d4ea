"""Running a session over a data set; the predictions it gives, and their artifact `reference.npz`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.contract import OutputForm, ServingContract
from edgecnn.data.dataset import Batch, Dataset, Labels, batches, nfc
from edgecnn.errors import ArtifactError, DataError, MeasurementError
from edgecnn.limits import DAMAGED_ZIP, require_arrays
from edgecnn.machine.threads import Seats
from edgecnn.measure.logits import Logits
from edgecnn.measure.served import scores_of
from edgecnn.results.accuracy import Task
from edgecnn.session import Array, Session, task_of

Progress = Callable[[int, int], None]
HASHED_AHEAD = 1024  # images of a journal at a time: what waits for a thread is in memory


@dataclass(frozen=True)
class Predictions:
    """Logits [N, C] of N images by id, with labels [N] (-1 where unknown) and what they depend on.

    One column decides between two classes: 1 above `threshold` (0 for a logit, 0.5 for a probability), else 0.
    Where `output` says so, probabilities stand in their place; of top-k those of the classes that are named, and
    `NOT_NAMED` for the others. The logits of an embedding network are its embeddings [N, D]. `unreadable` are the ids
    of images that could not be decoded; they are in none of the other fields. `sha256s` are the images' identities;
    files of earlier versions have none.
    """

    ids: tuple[str, ...]
    labels: Labels
    logits: Array
    preprocessing_sha256: str = ""
    dataset: str = ""
    label_names: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    threshold: float = 0.0
    output: OutputForm = "logits"
    sha256s: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """What the logits decide."""
        return task_of(int(self.logits.shape[1]))

    @property
    def classes(self) -> int:
        """The number of classes that the logits tell apart."""
        return 2 if self.task == "binary" else int(self.logits.shape[1])

    def without(self, ids: set[str]) -> Predictions:
        """The predictions on all other images."""
        keep = [k for k, name in enumerate(self.ids) if name not in ids]
        if len(keep) == len(self.ids):
            return self
        return replace(
            self,
            ids=tuple(self.ids[k] for k in keep),
            labels=self.labels[keep],
            logits=self.logits[keep],
            sha256s=tuple(self.sha256s[k] for k in keep) if self.sha256s else (),
        )


def predict(
    session: Session,
    dataset: Dataset,
    *,
    batch: int,
    workers: int = 2,
    progress: Progress | None = None,
    strict: bool = False,
    journal: Path | None = None,
    identity: str = "",
    threshold: float = 0.0,
    contract: ServingContract | None = None,
    known: Predictions | None = None,
) -> Predictions:
    """Logits of every image, `batch` at a time, with `workers` threads decoding ahead of the session, while it does not
    need them itself.

    `progress(done, total)` is called after every batch. An unreadable image is left out and listed, or with `strict`
    raises `DataError`. With a `journal` file the logits go to disk and not to memory, and a run that was killed goes on
    where it stopped; the journal is resumed only for the same `identity` (of the engine) and the same data: what is
    finished counts up to the first row that is damaged, or whose image is another one by now. `threshold`
    is what one output has to exceed for class 1, `contract` what the session takes and gives. Raises `MeasurementError`
    when the data do not fit the session, and at the first image that is another one than the image of that name in the
    `known` predictions.
    """
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: no images", "name a data set with at least one")
    contract = contract or ServingContract()
    dataset = dataset.in_form(contract.input)
    before = dict(zip(known.ids, known.sha256s, strict=True)) if known is not None and known.sha256s else {}
    step = min(batch, session.input.shape[0] or batch)  # of a frozen batch the whole is run, `_run` fills it up
    with Logits(journal, _key(session, dataset, identity, before)) as logits:
        same = _unchanged(dataset, logits, workers, strict)
        if same < len(dataset):
            logits.cut(same // step * step)
        unreadable = {dataset.ids[k] for k in set(range(logits.next)) - set(logits.positions)}
        done = logits.next
        position = {name: k for k, name in enumerate(dataset.ids)}
        rest = dataset.subset(range(done, len(dataset))) if done else dataset
        skip = None if strict else lambda name, error: unreadable.add(name)
        threads = session.info.threads
        seats = Seats(max(workers, threads, 1))
        for part in batches(rest, step, workers, skip, hashed=True, seats=seats):
            require_same_images(part.ids, part.sha256s, before)
            with seats.take(threads, first=True):
                rows = _run(session, part, dataset, contract)
            places = [position[name] for name in part.ids]
            logits.add(places, rows, part.sha256s, _contents(dataset, places, part.sha256s))
            if progress is not None:
                progress(logits.next, len(dataset))
        if not logits.positions:
            raise DataError(
                f"{dataset.name}: none of its {len(dataset)} images can be read", "check the files, or the folder"
            )
        kept = logits.positions
        return Predictions(
            ids=tuple(dataset.ids[k] for k in kept),
            labels=np.full(len(kept), -1, np.int64) if dataset.labels is None else dataset.labels[kept],
            logits=logits.array(),
            preprocessing_sha256=dataset.preprocessing.sha256 if dataset.preprocessing else "",
            dataset=dataset.name,
            label_names=dataset.label_names or (),
            unreadable=tuple(name for name in dataset.ids if name in unreadable),
            threshold=threshold,
            output=contract.output,
            sha256s=logits.sha256s(),
        )


def require_same_images(ids: Sequence[str], sha256s: Sequence[str], known: Mapping[str, str]) -> None:
    """Raise `MeasurementError` for an image whose sha256 is not the `known` one of its id; ids that are not known, or
    that come without a sha256, are not judged."""
    for name, digest in zip(ids, sha256s, strict=False):
        if known.get(name, digest) != digest:
            raise MeasurementError(
                f"image {name!r} is not the one that the reference was made on: its sha256 is {digest[:12]}, "
                f"in the reference {known[name][:12]}",
                "name the images of the reference, or make it again on these with `edgecnn reference`",
            )


def _unchanged(dataset: Dataset, logits: Logits, workers: int, strict: bool) -> int:
    """Up to which position the images are what a journal says of them. One that could not be read must still be so, and
    with `strict` not be there."""

    def readable(index: int) -> bool:
        try:
            dataset.tensor(index)
        except DataError:
            return strict
        return True

    def changed(index: int) -> bool:
        known = finished.get(index)
        if known is None:
            return readable(index)
        try:
            return known != dataset.content_sha256(index)
        except DataError:
            return True

    finished = dict(zip(logits.positions, logits.contents, strict=True))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, logits.next, HASHED_AHEAD):
            judged = pool.map(changed, range(start, min(start + HASHED_AHEAD, logits.next)))
            if (first := next((index for index, found in enumerate(judged, start) if found), None)) is not None:
                return first
    return logits.next


def _contents(dataset: Dataset, positions: Sequence[int], sha256s: Sequence[str]) -> Sequence[str]:
    """The sha256 of what was read for each image, which for packed ones is not that of the image they come from."""
    return sha256s if dataset.sha256s is None else [dataset.content_sha256(k) for k in positions]


def _run(session: Session, part: Batch, dataset: Dataset, contract: ServingContract) -> Array:
    wanted, found = session.input.shape[1:], part.input.shape[1:]
    if any(w not in (None, f) for w, f in zip(wanted, found, strict=True)):
        raise MeasurementError(
            f"{dataset.name} gives images of {'x'.join(map(str, found))}, "
            f"the engine takes {'x'.join('N' if w is None else str(w) for w in wanted)}",
            "use the preprocessing of the model that the engine was made from",
        )
    size, images = len(part.ids), part.input
    taken = session.input.shape[0] or session.info.fitting_batch(size)
    if size < taken:  # the last batch of an engine that takes no such one is filled up and cut again
        images = np.concatenate([images, np.repeat(images[-1:], taken - size, axis=0)])
    logits = scores_of(session.run_all({session.input.name: images}), session, contract)[:size]
    if logits.ndim != 2 or len(logits) != size:
        raise MeasurementError(
            f"the engine answers a batch of {size} with {list(logits.shape)}, not [{size}, classes]",
            "measure a classifier: logits [N, classes]",
        )
    classes = max(2, logits.shape[1])
    if part.label.max() >= classes:
        raise MeasurementError(
            f"{dataset.name} has label {part.label.max()}, the engine only {classes} classes",
            "validate with the data set that the model was trained for",
        )
    return logits.astype(np.float32, copy=False)


def _key(session: Session, dataset: Dataset, identity: str, known: Mapping[str, str]) -> str:
    """What a journal belongs to: one line of JSON. `known` are the images' identities, as far as they are told."""
    preprocessing = dataset.preprocessing.sha256 if dataset.preprocessing else ""
    images = hashlib.sha256("\n".join(f"{name} {known.get(name, '')}" for name in dataset.ids).encode()).hexdigest()
    facts = [identity, dataset.name, images, preprocessing]
    return json.dumps([*facts, list(session.input.shape), list(session.output.shape)])


def write_predictions(path: Path, predictions: Predictions, sidecar: Sidecar) -> Sidecar:
    """Write predictions as a plain .npz (no pickle) with its sidecar."""
    facts = {
        "n": len(predictions.ids),
        "classes": predictions.classes,
        "dataset": predictions.dataset,
        "preprocessing_sha256": predictions.preprocessing_sha256,
        "unreadable": list(predictions.unreadable),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                ids=np.array(predictions.ids, np.str_),
                labels=predictions.labels,
                logits=predictions.logits,
                preprocessing_sha256=np.array(predictions.preprocessing_sha256),
                dataset=np.array(predictions.dataset),
                label_names=np.array(predictions.label_names, np.str_),
                unreadable=np.array(predictions.unreadable, np.str_),
                threshold=np.array(predictions.threshold),
                output=np.array(predictions.output),
                sha256=np.array(predictions.sha256s, "S64"),
            )

    return write_artifact(path, write, replace(sidecar, facts={**sidecar.facts, **facts}))


def read_predictions(path: Path) -> Predictions:
    """Predictions from their file, after checking it against its sidecar; raises `ArtifactError`."""
    verified_sidecar(path)
    try:
        require_arrays(path)
        with np.load(path, allow_pickle=False) as content:
            predictions = Predictions(
                ids=tuple(nfc(name) for name in _strings(content["ids"])),
                labels=content["labels"].astype(np.int64),
                logits=content["logits"].astype(np.float32),
                preprocessing_sha256=str(content["preprocessing_sha256"]),
                dataset=str(content["dataset"]),
                label_names=tuple(nfc(name) for name in _strings(content["label_names"])),
                unreadable=tuple(nfc(name) for name in _strings(content["unreadable"])),
                threshold=float(content["threshold"]) if "threshold" in content else 0.0,
                output=_output_form(content["output"]) if "output" in content else "logits",
                sha256s=tuple(s.decode() for s in content["sha256"].tolist()) if "sha256" in content else (),
            )
    except (AttributeError, TypeError, *DAMAGED_ZIP) as exc:
        raise ArtifactError(
            f"{path}: not a file of predictions ({exc})", "make it with `edgecnn reference SOURCE --data D -o F`"
        ) from exc
    counts = {len(predictions.ids), len(predictions.labels), len(predictions.logits)}
    if predictions.sha256s:
        counts.add(len(predictions.sha256s))
    if len(counts) != 1 or predictions.logits.ndim != 2:
        raise ArtifactError(
            f"{path}: {len(predictions.ids)} ids, {len(predictions.labels)} labels and logits "
            f"{list(predictions.logits.shape)} do not belong together",
            "make it again with `edgecnn reference`",
        )
    return predictions


def _output_form(array: Any) -> OutputForm:
    found = str(array)
    if found not in get_args(OutputForm):
        raise ValueError(f"an output {found!r}")
    return cast(OutputForm, found)


def _strings(array: Any) -> tuple[str, ...]:
    return tuple(str(s) for s in array)
