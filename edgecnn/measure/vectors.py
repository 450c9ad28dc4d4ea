"""One vector an image, and the file of them: an index in which images are looked up."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.journal import Journal
from edgecnn.artifact.sidecar import Sidecar, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.data.dataset import Dataset, Labels, batches
from edgecnn.errors import ArtifactError, DataError, MeasurementError
from edgecnn.limits import DAMAGED_ZIP, require_arrays
from edgecnn.measure.features import run_features
from edgecnn.measure.predict import Progress
from edgecnn.records import mapping_from_json
from edgecnn.session import Array, Session

TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Vectors:
    """Vectors [N, D] of N images by id, with the split that each is of, its label (-1 where unknown) and the sha256 of
    its file; `unreadable` are the ids of those that could not be decoded."""

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    labels: Labels
    label_names: tuple[str, ...]
    sha256s: tuple[str, ...]
    vectors: Array
    unreadable: tuple[str, ...] = ()


def find_vector_output(path: Path, session: Session) -> str:
    """The output that is one vector an image; raises `MeasurementError` for none or several."""
    flat = [spec.name for spec in session.info.outputs if len(spec.shape) == 2]
    if len(flat) != 1:
        shown = ", ".join(spec.name for spec in session.info.outputs)
        raise MeasurementError(
            f"{path}: gives {shown}, of which {len(flat)} are one vector an image",
            "export one vector: --features pool",
        )
    return flat[0]


def collect_vectors(
    session: Session,
    output: str,
    dataset: Dataset,
    split: str,
    *,
    batch: int,
    workers: int = 2,
    strict: bool = False,
    identity: str = "",
    journal: Path,
    progress: Progress | None = None,
) -> Vectors:
    """The vector of every image of `dataset`; a killed run goes on from its `journal`, for the same engine (`identity`)
    and images, and looks again at what it could not read. An unreadable image is left out and listed, or with `strict`
    raises `DataError`."""
    preprocessing = dataset.preprocessing.sha256 if dataset.preprocessing else ""
    key = [identity, output, split, preprocessing, batch, *dataset.ids]
    position = {name: k for k, name in enumerate(dataset.ids)}
    rows, shas = dict[int, Array](), dict[int, str]()
    with Journal(journal, hashlib.sha256(json.dumps(key).encode()).hexdigest()) as kept:
        for positions, digests, vectors in _unchanged(kept, dataset):
            rows |= dict(zip(positions, vectors, strict=True))
            shas |= dict(zip(positions, digests, strict=True))
        done = max(rows, default=-1) + 1
        unreadable = list[str]()
        skip = None if strict else lambda name, error: unreadable.append(name)
        again, left = [k for k in range(done) if k not in rows], range(done, len(dataset))
        for part in itertools.chain.from_iterable(
            batches(dataset.subset(some), batch, workers, skip, hashed=True) for some in (again, left) if some
        ):
            vectors = run_features(session, part.input)[output]
            if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
                raise MeasurementError(
                    f"the vector of {part.ids[bad[0]]!r} is not finite",
                    "`edgecnn validate ENGINE --reference GRAPH` tells how many are; FP16 overflows beyond 65 504",
                )
            places = [position[name] for name in part.ids]
            rows |= dict(zip(places, vectors, strict=True))
            shas |= dict(zip(places, part.sha256s, strict=True))
            head = json.dumps({"positions": places, "sha256s": part.sha256s}).encode()
            kept.append(head + b"\n" + vectors.astype("<f4").tobytes())
            if progress is not None:
                progress(len(rows) + len(unreadable), len(dataset))
    if not rows:
        raise DataError(f"{dataset.name}: none of its {len(dataset)} images can be read", "check the files")
    order = sorted(rows)
    labels = np.full(len(order), -1, np.int64) if dataset.labels is None else dataset.labels[order]
    return Vectors(
        ids=tuple(dataset.ids[k] for k in order),
        splits=(split,) * len(order),
        labels=labels,
        label_names=dataset.label_names or (),
        sha256s=tuple(shas[k] for k in order),
        vectors=np.stack([rows[k] for k in order]),
        unreadable=tuple(unreadable),
    )


def _unchanged(kept: Journal, dataset: Dataset) -> Iterator[tuple[list[int], list[str], Array]]:
    """The blocks of an earlier run, up to the first whose images are other ones by now."""
    count = 0
    for block in kept.blocks():
        head, _, values = block.partition(b"\n")
        positions, digests = _head(head)
        if [dataset.sha256(k) for k in positions] != digests:
            break
        count += 1
        yield positions, digests, np.frombuffer(values, "<f4").reshape(len(positions), -1).astype(np.float32)
    kept.keep(count)


def _head(head: bytes) -> tuple[list[int], list[str]]:
    content = mapping_from_json(head, "a journal of features", "remove it")
    return content["positions"], content["sha256s"]


def join_vectors(parts: list[Vectors]) -> Vectors:
    """Those of several splits, whose class names must be the same; raises `DataError`."""
    names = {part.label_names for part in parts if part.label_names}
    if len(names) > 1:
        raise DataError(f"the splits have different classes: {', '.join(map(str, names))}", "name the folders alike")
    return Vectors(
        ids=tuple(name for part in parts for name in part.ids),
        splits=tuple(split for part in parts for split in part.splits),
        labels=np.concatenate([part.labels for part in parts]),
        label_names=next(iter(names), ()),
        sha256s=tuple(sha for part in parts for sha in part.sha256s),
        vectors=np.concatenate([part.vectors for part in parts]),
        unreadable=tuple(name for part in parts for name in part.unreadable),
    )


def write_vectors(path: Path, found: Vectors, sidecar: Sidecar) -> Sidecar:
    """Write vectors as a plain .npz (no pickle) with its sidecar."""
    facts = {"n": len(found.ids), "dimensions": found.vectors.shape[1], "unreadable": list(found.unreadable)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                ids=np.array(found.ids, np.str_),
                splits=np.array(found.splits, np.str_),
                labels=found.labels,
                label_names=np.array(found.label_names, np.str_),
                sha256=np.array(found.sha256s, "S64"),
                vectors=found.vectors,
                unreadable=np.array(found.unreadable, np.str_),
            )

    return write_artifact(path, write, replace(sidecar, facts={**sidecar.facts, **facts}))


def read_vectors(path: Path) -> Vectors:
    """Vectors from their file, after checking it against its sidecar; raises `ArtifactError`."""
    verified_sidecar(path)
    try:
        require_arrays(path)
        with np.load(path, allow_pickle=False) as content, np.errstate(over="ignore"):
            found = Vectors(
                ids=_strings(content, "ids"),
                splits=_strings(content, "splits"),
                labels=_array(content, "labels", "i", 1).astype(np.int64),
                label_names=_strings(content, "label_names"),
                sha256s=tuple(s.decode() for s in _array(content, "sha256", "S", 1).tolist()),
                vectors=_array(content, "vectors", "f", 2).astype(np.float32),
                unreadable=_strings(content, "unreadable"),
            )
    except DAMAGED_ZIP as exc:
        raise ArtifactError(
            f"{path}: not a file of features ({exc})", "make it with `edgecnn features ENGINE FOLDER -o F.npz`"
        ) from exc
    counts = {len(found.ids), len(found.splits), len(found.labels), len(found.sha256s), len(found.vectors)}
    again = "make it again with `edgecnn features`"
    named = not len(found.labels) or -1 <= found.labels.min() <= found.labels.max() < max(1, len(found.label_names))
    if len(counts) != 1 or not named or not set(found.splits) <= {TRAIN, TEST} or not found.ids:
        raise ArtifactError(f"{path}: its arrays do not belong together", again)
    if len(bad := np.flatnonzero(~np.isfinite(found.vectors).all(axis=1))):
        raise ArtifactError(f"{path}: the vector of {found.ids[bad[0]]!r} is not finite", again)
    return found


def _array(content: Any, name: str, kind: str, dimensions: int) -> Any:
    """One of the arrays; raises `ValueError` for one of another kind or number of dimensions."""
    array = content[name]
    if array.dtype.kind != kind or array.ndim != dimensions:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    return array


def _strings(content: Any, name: str) -> tuple[str, ...]:
    return tuple(str(s) for s in _array(content, name, "U", 1))
