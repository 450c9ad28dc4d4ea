"""The rows of a transfer table: a run up to its accuracies, and the probes of a network."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgecnn.artifact.run_folder import read_target_run
from edgecnn.artifact.sidecar import sha256_of, tool_versions
from edgecnn.artifact.trial_log import TrialLog
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import images_sha256
from edgecnn.errors import BackendError, GraphError, MeasurementError, MissingPackageError
from edgecnn.machine.threads import limit_threads
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import read_predictions
from edgecnn.pipeline.run import run_recipe
from edgecnn.pipeline.workshop import ProgressFor
from edgecnn.recipe.schema import Recipe
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.correctness import images_digest, pack_bits
from edgecnn.results.transfer import PROBE, TransferInt8, TransferRow
from edgecnn.statistics import wilson_interval
from edgecnn.steps.reference import reference
from edgecnn.steps.train import CHECKPOINT

Say = Callable[[str], None]
TARGET = "cpu"
NETWORKS_FAULT = (GraphError, MeasurementError, BackendError)  # not the settings', the images' or the disk's
START_AGAIN = "remove the folder, and start again"


@dataclass(frozen=True)
class TransferRun:
    """One row that is trained."""

    name: str
    model: str
    trains: str
    recipe: Recipe
    folder: Path
    params: int
    params_trained: int


@dataclass(frozen=True)
class TransferPlan:
    """The rows of one network, and the images."""

    model: str
    runs: tuple[TransferRun, ...]
    train: Dataset
    test: Dataset


class Kept:
    """What an earlier call has found out that no file of a run says: how long training took, and the probes."""

    def __init__(self, log: TrialLog) -> None:
        self._log = log
        self._found = {str(line.get("of")): line.get("found") for line in log}

    def find(self, key: str) -> list[object]:
        """What was kept of `key`; empty where nothing was."""
        found = self._found.get(key)
        return found if isinstance(found, list) else []

    def keep(self, key: str, found: list[object]) -> None:
        """For the calls to come; raises `WriteError`."""
        self._found[key] = found
        self._log.append({"of": key, "found": found})


def train_row(
    run: TransferRun, test: Dataset, threads: int, retrain: bool, kept: Kept, say: Say, progress: ProgressFor
) -> TransferRow:
    """Bring one run up to date, up to `validate`, and read what it came to; raises the errors of a run, but for those
    that a trained network is to blame for."""
    from edgecnn.pytorch.checkpoint import seconds_trained

    say(f"{run.name}: {run.params_trained} of {run.params} parameters learn")
    checkpoint = run.folder / CHECKPOINT
    before = sha256_of(checkpoint) if checkpoint.exists() else ""
    spent = 0.0 if before else seconds_trained(run.folder, run.recipe)
    begun, begun_cpu = time.monotonic(), time.process_time()
    run_recipe(run.recipe, run.folder, say, until="train", threads=threads, progress=progress, retrain=retrain)
    seconds, cpu_seconds = spent + time.monotonic() - begun, time.process_time() - begun_cpu
    if (made := sha256_of(checkpoint)) != before:
        kept.keep(made, [seconds, None if spent else cpu_seconds])
    found, int8, failed = _measured(run, test, threads, say, progress)
    minutes, cpu_minutes = ([*map(_minutes, kept.find(made))] or [None, None])[:2]
    return TransferRow(
        name=run.name,
        model=run.model,
        trains=run.trains,
        stage="",
        folder=run.folder.name,
        params=run.params,
        params_trained=run.params_trained,
        minutes=minutes,
        cpu_minutes=cpu_minutes,
        n=found.n_labelled,
        top1_n=found.top1_n or 0,
        top1_pct=found.top1_pct or 0.0,
        top1_ci_pct=_interval(found.top1_n or 0, found.n_labelled),
        int8=int8,
        images_sha256=found.images_sha256,
        top1_bits=found.top1_bits,
        failed=failed,
    )


def _measured(
    run: TransferRun, test: Dataset, threads: int, say: Say, progress: ProgressFor
) -> tuple[Accuracy, tuple[TransferInt8, ...], str]:
    """Top-1, what INT8 costs, and why there is none: where the network cannot be quantized top-1 is the float32
    graph's, where it cannot be exported PyTorch's."""
    failed = ""
    for recipe in (run.recipe, replace(run.recipe, precisions=("fp32",))):
        try:
            run_recipe(recipe, run.folder, say, until="validate", threads=threads, progress=progress)
            found, int8 = _accuracies(run.folder / TARGET)
        except MissingPackageError:
            raise
        except NETWORKS_FAULT as exc:
            say(f"{run.name}: failed: {exc.message}")
            failed = failed or exc.message
        else:
            return found, () if failed else int8, failed
    path = reference(
        run.folder / CHECKPOINT,
        run.folder / "reference.npz",
        data=run.recipe.data.source,
        threads=threads,
        dataset=test,
    )
    ours = read_predictions(path)  # logits that are not finite are wrong
    return measure_accuracy("pytorch", ours, replace(ours, logits=np.nan_to_num(ours.logits))), (), failed


def _minutes(seconds: object) -> float | None:
    return seconds / 60 if isinstance(seconds, (int, float)) else None


def _interval(count: int, n: int) -> tuple[float, float]:
    low, high = wilson_interval(count, n)
    return 100 * low, 100 * high


def _accuracies(folder: Path) -> tuple[Accuracy, tuple[TransferInt8, ...]]:
    """That of the float32 graph, and what INT8 costs."""
    known = [(m.engine, m.accuracy) for m in read_target_run(folder).measurements if m.accuracy]
    found = next((accuracy for engine, accuracy in known if engine.precision_requested == "fp32"), None)
    if found is None or not found.top1_bits:
        raise MeasurementError(f"{folder}: has no top-1 of the float32 graph", START_AGAIN)
    int8 = tuple(
        TransferInt8(
            scheme=engine.scheme,
            simulated=engine.simulated,
            top1_pct=one.top1_pct,
            top1_drop_pp=one.top1_drop_pp,
            top1_drop_ci_pp=one.top1_drop_ci_pp,
            agreement_pct=one.agreement_pct,
        )
        for engine, one in known
        if engine.precision_requested == "int8" and one.top1_pct is not None
        if one.top1_drop_pp is not None and one.top1_drop_ci_pp is not None
    )
    return found, int8


def probe_rows(plan: TransferPlan, threads: int, kept: Kept, say: Say) -> list[TransferRow]:
    """A linear classifier on each stage of the network with its first weights, and on all of them together."""
    recipe, key = plan.runs[0].recipe, _key(plan)
    if not (found := kept.find(key)):
        found = [to_plain(row) for row in _probe(plan, recipe, threads, say)]
        kept.keep(key, found)
    where = f"the probes of {plan.model}"
    rows = [record_from_mapping(TransferRow, one, where, START_AGAIN) for one in found if isinstance(one, dict)]
    return rows


def _key(plan: TransferPlan) -> str:
    """What the probes depend on."""
    recipe = plan.runs[0].recipe
    start = Path(recipe.model.weights)
    weights = sha256_of(start) if start.is_file() else recipe.model.weights
    images = [images_sha256(recipe.data.source, split) for split in ("train", "test")]
    preprocessing = plan.train.preprocessing.to_json() if plan.train.preprocessing else None
    facts = [plan.model, weights, recipe.model.ema, images, preprocessing, recipe.train.seed, tool_versions("torch")]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _probe(plan: TransferPlan, recipe: Recipe, threads: int, say: Say) -> list[TransferRow]:
    from edgecnn.pytorch.probe import probe_images
    from edgecnn.pytorch.threads import torch_threads
    from edgecnn.pytorch.training.progress import Lines

    say(f"{plan.model}: a linear classifier on each stage")
    model, seed = recipe.model, recipe.train.seed
    with limit_threads(threads), torch_threads(threads):
        stages = probe_images(
            plan.model, model.weights, plan.train, plan.test, ema=model.ema, seed=seed, progress=Lines()
        )
    classes, digest, order = len(plan.train.label_names or ()), _digest(plan.test), _order(plan.test)
    return [
        TransferRow(
            name=f"{plan.model} {PROBE} {found.row.name}",
            model=plan.model,
            trains=PROBE,
            stage=found.row.name,
            folder="",
            params=plan.runs[0].params,
            params_trained=(found.row.features + 1) * classes,
            minutes=found.seconds / 60,
            cpu_minutes=found.cpu_seconds / 60,
            n=len(found.right),
            top1_n=int(found.right.sum()),
            top1_pct=100 * float(found.right.mean()),
            top1_ci_pct=_interval(int(found.right.sum()), len(found.right)),
            int8=(),
            images_sha256=digest,
            top1_bits=pack_bits(found.right[order]),
        )
        for found in stages
    ]


def _order(test: Dataset) -> Sequence[int]:
    return sorted(range(len(test)), key=lambda k: test.ids[k])


def _digest(test: Dataset) -> str:
    """As `Accuracy.images_sha256`."""
    labels = test.labels if test.labels is not None else np.full(len(test), -1)
    names = test.label_names or ()
    return images_digest((test.ids[k], test.sha256(k), names[int(labels[k])]) for k in _order(test))
