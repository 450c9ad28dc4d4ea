"""Measuring and calibrating under torchrun: every image exactly once, results those of one process.

Each process takes every N-th batch, with the boundaries that one process would use, so that the same numbers are added
and rounded together; predictions are put back in order, and the statistics of ranges add up exactly.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecnn.data.dataset import Dataset

if TYPE_CHECKING:
    from edgecnn.graph.calibration.histogram import Ranges
    from edgecnn.measure.predict import Predictions, Progress
    from edgecnn.session import Session


def rank_and_size() -> tuple[int, int]:
    """(rank, number of processes) of this job; without torchrun, and without asking torch, (0, 1)."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0, 1
    from edgecnn.pytorch.training import process_group as distributed

    return distributed.rank_from_environment()[:2]


def is_first() -> bool:
    """Whether this process writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def predict_shared(
    session: Session,
    dataset: Dataset,
    *,
    batch: int,
    progress: Progress | None = None,
    journal: Path | None = None,
    **settings: Any,
) -> Predictions:
    """`predict`, shared between the processes of the job; the same on each of them."""
    from edgecnn.measure.predict import predict

    rank, size = rank_and_size()
    if size == 1:
        return predict(session, dataset, batch=batch, progress=progress, journal=journal, **settings)
    own = journal.with_name(f"{journal.name}-{rank}-of-{size}") if journal is not None else None
    shown = _of_the_job(progress, size, len(dataset)) if progress is not None and rank == 0 else None

    def mine(part: Dataset) -> Predictions:
        return predict(session, part, batch=batch, progress=shown, journal=own, **settings)

    parts = _shared(dataset, batch, "predict its images", mine)
    if own is not None:
        own.unlink(missing_ok=True)
    return _in_order(dataset, [p for p in parts if p is not None])


def collect_shared(
    graph: Path,
    dataset: Dataset,
    *,
    batch: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Ranges:
    """`collect_ranges`, shared between the processes of the job; the same on each of them."""
    from edgecnn.graph.calibration.collect import collect_ranges, images_at_once

    rank, size = rank_and_size()
    if size == 1:
        return collect_ranges(graph, dataset, batch=batch, threads=threads, progress=progress, resume=resume)
    own = resume.with_name(f"{resume.name}-{rank}-of-{size}") if resume is not None else None
    shown = _of_the_job(progress, size, len(dataset)) if progress is not None and rank == 0 else None

    def mine(part: Dataset) -> Ranges:
        return collect_ranges(graph, part, batch=batch, threads=threads, of=len(dataset), progress=shown, resume=own)

    first: Ranges
    first, *others = [
        p for p in _shared(dataset, batch or images_at_once(dataset), "collect its ranges", mine) if p is not None
    ]
    for other in others:
        first.merge(other)
    digests = "\n".join(dataset.sha256(k) for k in range(len(dataset)))
    return replace(first, data=dataset.name, data_sha256=hashlib.sha256(digests.encode()).hexdigest())


def _shared(dataset: Dataset, batch: int, what: str, action: Callable[[Dataset], Any]) -> list[Any]:
    """What `action` gives for each rank's part; None for a rank without images. An error of one is everybody's."""
    from edgecnn.pytorch.training.process_group import join_process_group_on_cpu

    with join_process_group_on_cpu() as processes:
        processes.check_agreement("the data", {"images": _identity(dataset), "batch": batch})
        starts = range(0, len(dataset), batch)[processes.rank :: processes.size]
        mine = [k for start in starts for k in range(start, min(start + batch, len(dataset)))]
        [found] = processes.on_all_ranks(what, lambda: [action(dataset.subset(mine)) if mine else None])
        return processes.all_gather(found)


def _in_order(dataset: Dataset, parts: list[Predictions]) -> Predictions:
    position = {name: k for k, name in enumerate(dataset.ids)}
    where = np.array([position[name] for part in parts for name in part.ids])
    order = np.argsort(where, kind="stable")
    unreadable = {name for part in parts for name in part.unreadable}
    return replace(
        parts[0],
        ids=tuple(dataset.ids[where[k]] for k in order),
        labels=np.concatenate([part.labels for part in parts])[order],
        logits=np.concatenate([part.logits for part in parts])[order],
        sha256s=tuple(np.array([s for part in parts for s in part.sha256s], np.str_)[order].tolist())
        if all(part.sha256s for part in parts)
        else (),
        unreadable=tuple(name for name in dataset.ids if name in unreadable),
    )


def _of_the_job(progress: Progress, size: int, total: int) -> Progress:
    """The first process's count, as that of all."""
    return lambda done, _: progress(min(done * size, total), total)


def _identity(dataset: Dataset) -> str:
    return hashlib.sha256("\n".join(dataset.ids).encode()).hexdigest()[:12]
