"""Training: a recipe in, a checkpoint out; seeded, resumable, and honest about which images chose the weights.

The best epoch is chosen on images held out of the training split (`train.validation`), never on the test split, which
is looked at once, when training is over: what a later step measures on it has not been selected for.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.stale import TRAIN_IMAGES
from edgecnn.artifact.write import write_artifact
from edgecnn.data.open import images_sha256
from edgecnn.errors import ArtifactError, RecipeError, TrainingError, is_out_of_memory
from edgecnn.machine.threads import allowed_threads, limit_threads, spare_threads
from edgecnn.pytorch.checkpoint import (
    STATE_NAME,
    bytes_of,
    can_resume,
    checkpoint_fields,
    checkpoint_sidecar,
    read_state,
    read_weights,
    require_space_for_epoch,
    write_checkpoint,
    write_state,
)
from edgecnn.pytorch.embedding import EmbeddingNetwork
from edgecnn.pytorch.threads import torch_threads
from edgecnn.pytorch.training.class_splits import open_class_splits
from edgecnn.pytorch.training.epoch import Score, Trainer
from edgecnn.pytorch.training.events import EventFile
from edgecnn.pytorch.training.gradients import write_gradient_norms
from edgecnn.pytorch.training.lr_schedule import Plateau
from edgecnn.pytorch.training.metric import MetricTrainer
from edgecnn.pytorch.training.process_group import ProcessGroup, join_process_group
from edgecnn.pytorch.training.progress import Progress, Silent
from edgecnn.pytorch.training.splits import open_splits
from edgecnn.pytorch.training.transfer import cache_features, make_learner, start_network
from edgecnn.recipe.schema import Recipe, TrainSettings
from edgecnn.records import to_plain
from edgecnn.results.training import Epoch, TrainResult
from edgecnn.version import __version__

START_ANEW = f"restore the data; or start anew: without --resume, in `edgecnn run` after removing {STATE_NAME}"
TIMES = ("images_per_s", "seconds")  # which say nothing of the weights, and are others each time
RANK_KEYS = {"data.source", "train.workers"}  # may differ between the ranks of a job
MakeTrainer = Callable[[Recipe, ProcessGroup, bool, Progress], Trainer]


@dataclass
class Best:
    """The epoch whose weights are kept."""

    epoch: int = 0
    top1_pct: float | None = None
    loss: float = math.inf
    roc_auc: float | None = None

    def beaten_by(self, score: Score | None) -> bool:
        """Higher top-1 wins, then lower loss; of an embedding the larger area under the ROC curve; without a validation
        set the later epoch."""
        if score is None or self.top1_pct is None:
            return True
        if score.roc_auc is not None and self.roc_auc is not None:
            return score.roc_auc > self.roc_auc
        return (score.top1_pct, -score.loss) > (self.top1_pct, -self.loss)


def train(
    recipe: Recipe,
    output: Path,
    *,
    resume: bool | None = False,
    threads: int | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
    make: MakeTrainer | None = None,
) -> TrainResult:
    """Train `recipe.model`, or what `make` makes of the recipe, on `recipe.data` into the folder `output`.

    Written after each epoch: `best.safetensors`, `last.safetensors` and `training-state.pt`; at the end
    `model.safetensors`, the best. The same recipe gives the same weights on the same machine, torch and thread count,
    also when resumed; `resume=None` resumes where `output` holds a run of the same recipe, else starts anew. Raises
    `TrainingError` when the loss is not finite or the state is another recipe's, `DataError` and `RecipeError` for
    what cannot be trained on.
    """
    if recipe.train.epochs == 0:
        raise RecipeError(f"{recipe.path}: train.epochs is 0: there is nothing to train", "set train.epochs")
    started, progress = time.monotonic(), progress or Silent()
    with (
        contextlib.closing(progress),
        limit_threads(_threads_of_the_run(output, resume, threads)),
        torch_threads(threads),
        join_process_group(lambda local: training_device(recipe.train, local)) as processes,
        _batch_errors(recipe, processes),
    ):
        fields = {k: v for k, v in checkpoint_fields(recipe).items() if k not in RANK_KEYS}
        processes.check_agreement("the recipe", fields | {"edgecnn": __version__, "torch": torch.__version__})
        run = TrainingRun(recipe, output, (make or make_trainer)(recipe, processes, skip_corrupt, progress))
        if resume or (resume is None and processes.on_first_rank("look for a run", lambda: can_resume(output, recipe))):
            run.restore()
        run.to_the_end()
        return run.finish(time.monotonic() - started)


def _threads_of_the_run(output: Path, resume: bool | None, threads: int | None) -> int:
    """As many as were asked for; else where a run goes on, as many as it began with, for its weights depend on them;
    else those that others leave."""
    with contextlib.suppress(ArtifactError):
        before = None if threads or resume is False else read_sidecar(output / "last.safetensors").device
        if before is not None and before.threads:
            return min(before.threads, allowed_threads())
    return spare_threads(threads)


@contextlib.contextmanager
def _batch_errors(recipe: Recipe, processes: ProcessGroup) -> Iterator[None]:
    """A batch that is too large for the memory, or too small for batch normalization, as an error with a hint."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        where = f"rank {processes.rank} on {processes.device}" if processes.size > 1 else str(processes.device)
        raise TrainingError(
            f"out of memory ({where}): {str(exc).splitlines()[0][:200] if str(exc) else 'no memory left'}",
            f"lower train.batch (now {recipe.train.batch}), or set train.amp; the last checkpoint is whole",
        ) from exc
    except ValueError as exc:
        if "more than 1 value per channel" not in str(exc):
            raise
        raise TrainingError(
            f"batch normalization has one value per channel to normalize, in a batch of {recipe.train.batch}"
            + (f" for {processes.size} processes" if processes.size > 1 else ""),
            "raise train.batch: each process needs at least two images of it",
        ) from exc


def make_trainer(recipe: Recipe, processes: ProcessGroup, skip_corrupt: bool, progress: Progress) -> Trainer:
    """Data, network and optimizer as the recipe says, ready for the first epoch."""
    settings = recipe.train
    if processes.size > settings.batch:
        raise TrainingError(
            f"{processes.size} processes cannot share batches of {settings.batch} images",
            "start fewer processes, or set a larger train.batch (it is of the whole job)",
        )
    if settings.loss is not None:
        return _make_metric_trainer(recipe, processes, skip_corrupt, progress)
    splits = processes.on_all_ranks("open the data", lambda: open_splits(recipe, processes.device, skip_corrupt))
    processes.check_agreement("the data", splits.identity())
    network = _start(recipe, splits.labels, processes, progress)
    learner = make_learner(recipe, network)
    learner, splits = cache_features(recipe, learner, splits, progress)
    return Trainer(settings, learner, splits, processes, progress)


def _make_metric_trainer(
    recipe: Recipe, processes: ProcessGroup, skip_corrupt: bool, progress: Progress
) -> MetricTrainer:
    """The same for an embedding: the outputs of the network's last layer, of unit length."""
    if processes.size > 1:
        raise TrainingError(
            f"train.loss = {recipe.train.loss!r} with {processes.size} processes, whose batches would share no pairs",
            "start it without torchrun: one trains",
        )
    splits, classes = open_class_splits(recipe, processes.device, skip_corrupt)
    network = _start(recipe, [""] * recipe.verification.embedding, processes, progress)
    learner, splits = cache_features(recipe, make_learner(recipe, network), splits, progress)
    learner = replace(learner, body=EmbeddingNetwork(learner.body))
    return MetricTrainer(recipe, learner, splits, classes, processes, progress)


def _start(recipe: Recipe, outputs: Sequence[str], processes: ProcessGroup, progress: Progress) -> nn.Module:
    network, notes = processes.on_all_ranks("start the network", lambda: start_network(recipe, outputs))
    for note in notes:
        progress.note(note)
    network.to(processes.device)
    if recipe.train.channels_last:
        network.to(memory_format=torch.channels_last)
    if recipe.train.sync_batchnorm and processes.size > 1:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network


def training_device(settings: TrainSettings, local_rank: int = 0) -> torch.device:
    """The device that the recipe names; `auto` is the GPU where there is one, one for each process of a machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if settings.device == "cuda" and not count:
        raise RecipeError("train.device = 'cuda': PyTorch sees no GPU here", "set train.device to 'auto' or 'cpu'")
    on_gpu = count > 0 and settings.device != "cpu"
    if on_gpu and local_rank >= count:
        raise TrainingError(
            f"local rank {local_rank} has no GPU: this machine has {count}", f"use --nproc-per-node {count} or fewer"
        )
    if settings.amp == "fp16" and not on_gpu:
        raise RecipeError("train.amp = 'fp16' needs a GPU", "use 'bf16' or 'off' on a CPU")
    if settings.sync_batchnorm and not on_gpu:
        raise RecipeError("train.sync_batchnorm needs GPUs", "leave it out on a CPU: statistics are per process there")
    return torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")


class TrainingRun:
    """A training run in its folder: epochs, checkpoints, resuming."""

    def __init__(self, recipe: Recipe, output: Path, trainer: Trainer) -> None:
        self.recipe, self.output, self.trainer = recipe, output, trainer
        self.best, self.history, self.rates = Best(), list[Epoch](), list[float]()

    def restore(self) -> None:
        """Continue after the last completed epoch; raises `TrainingError` when the state is another run's."""
        trainer = self.trainer
        state = trainer.processes.on_first_rank("read the training state", lambda: read_state(self.output, self.recipe))
        if state["labels"] != trainer.splits.labels:
            raise TrainingError(
                f"{self.output}: the run was started with the classes {', '.join(state['labels'])}; "
                f"the data now has {', '.join(trainer.splits.labels)}",
                START_ANEW,
            )
        images = trainer.splits.identity()
        if other := [k for k, digest in state.get("images", images).items() if digest != images.get(k)]:
            raise TrainingError(
                f"{self.output}: the {other[0]} are not those that the run was started with", START_ANEW
            )
        for what in ("threads", "processes"):
            before, now = state["device"][what], getattr(trainer.processes.facts(), what)
            if before != now:
                trainer.progress.note(f"resuming with {now} {what}, not {before}: the weights will differ in rounding")
        trainer.network.load_state_dict(state["network"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
        trainer.plateau = Plateau(**state["plateau"])
        if trainer.average is not None:
            trainer.average.steps = state["average_steps"]
            trainer.average.weights = {k: v.to(trainer.processes.device) for k, v in state["average"].items()}
        self.best, self.history = Best(**state["best"]), [Epoch(**row) for row in state["history"]]
        trainer.progress.note(f"resuming after epoch {len(self.history)} of {self.recipe.train.epochs}")

    def to_the_end(self) -> None:
        """The epochs that are left, each with its checkpoints."""
        settings, trainer = self.recipe.train, self.trainer
        events = EventFile(self.output / "tensorboard") if trainer.processes.writes else None
        for epoch in range(len(self.history), settings.epochs):
            if settings.early_stop and epoch - self.best.epoch >= settings.early_stop:
                trainer.progress.note(f"stopped early: no better validation top-1 since epoch {self.best.epoch}")
                break
            self._require_space()
            started = time.monotonic()
            loss, top1_pct, images_per_s = trainer.train_epoch(epoch)
            held_out = trainer.splits.validation
            score = trainer.evaluate(held_out) if held_out is not None else None
            if score is not None:
                trainer.plateau.after_epoch(score.top1_pct, settings)
            done = Epoch(
                epoch=epoch + 1,
                epochs=settings.epochs,
                loss=loss,
                top1_pct=top1_pct,
                validation_loss=score.loss if score else None,
                validation_top1_pct=score.top1_pct if score else None,
                images_per_s=images_per_s,
                seconds=time.monotonic() - started,
                learning_rate=trainer.rate,
                gradient_norms=trainer.gradients.take_means() if trainer.gradients else {},
            )
            self.history.append(done)
            self._write(epoch + 1, score)
            if events is not None:
                events.add(_scalars(done), epoch + 1)
            trainer.progress.epoch(done)

    def finish(self, seconds: float) -> TrainResult:
        """Make the best epoch's weights the result, and measure them once on the test split."""
        trainer, best = self.trainer, self.output / "best.safetensors"
        trainer.average = None
        if trainer.processes.writes:
            trainer.network.load_state_dict(read_weights(best))
        trainer.processes.broadcast(trainer.network.state_dict().values())
        test, held_out = trainer.splits.test, trainer.splits.validation
        score = trainer.evaluate(test, trainer.network) if test is not None else None
        result = TrainResult(
            checkpoint=self.output / "model.safetensors",
            epochs=len(self.history),
            best_epoch=self.best.epoch,
            train_loss=self.history[-1].loss,
            validation_top1_pct=self.best.top1_pct,
            validation_n=len(held_out.readable) if held_out else 0,
            top1_pct=score.top1_pct if score else None,
            top5_pct=score.top5_pct if score else None,
            n=score.n if score else 0,
            images_per_s=sum(h.images_per_s for h in self.history) / len(self.history),
            seconds=seconds,
            corrupt_images=trainer.splits.corrupt(trainer.processes),
        )
        if trainer.processes.writes:
            facts = {k: v for k, v in to_plain(result).items() if k not in ("checkpoint", *TIMES)}
            facts |= trainer.closing_facts()
            if images := images_sha256(self.recipe.data.source, "train"):
                facts[TRAIN_IMAGES] = images

            def copy_best(temporary: Path) -> None:
                shutil.copyfile(best, temporary)

            sidecar = self._sidecar(result.checkpoint, facts)
            write_artifact(result.checkpoint, copy_best, sidecar)
        return result

    def _require_space(self) -> None:
        """Refuse an epoch that could not be saved; raises `WriteError` on every rank."""
        trainer, settings = self.trainer, self.recipe.train
        weights, learned = (bytes_of(t) for t in (trainer.network.state_dict().values(), trainer.network.parameters()))
        slots = 2 if settings.optimizer == "adamw" else int(settings.momentum > 0)
        state = weights * (2 if trainer.average else 1) + slots * learned
        trainer.processes.on_first_rank(
            "look for space on the disk", lambda: require_space_for_epoch(self.output, weights, state)
        )

    def _write(self, epoch: int, score: Score | None) -> None:
        trainer = self.trainer
        better = self.best.beaten_by(score)
        if better:
            known = (score.top1_pct, score.loss, score.roc_auc) if score else ()
            self.best = Best(epoch, *known)
        if not trainer.processes.writes:
            return
        weights = trainer.average.weights if trainer.average else trainer.network.state_dict()
        facts = {"epoch": epoch, "validation_top1_pct": score.top1_pct if score else None}
        for name in ("best", "last") if better else ("last",):
            path = self.output / f"{name}.safetensors"
            write_checkpoint(path, weights, self._sidecar(path, facts))
        write_state(
            self.output,
            {
                "fields": json.dumps(checkpoint_fields(self.recipe)),
                "labels": trainer.splits.labels,
                "images": {k: v for k, v in trainer.splits.identity().items() if k != "labels"},
                "device": to_plain(trainer.processes.facts()),
                "network": trainer.network.state_dict(),
                "optimizer": trainer.optimizer.state_dict(),
                "scaler": trainer.scaler.state_dict(),
                "plateau": asdict(trainer.plateau),
                "average": trainer.average.weights if trainer.average else {},
                "average_steps": trainer.average.steps if trainer.average else 0,
                "best": asdict(self.best),
                "history": to_plain(self.history),
            },
        )
        write_gradient_norms(self.output, self.history, self._sidecar(self.output, {}))

    def _sidecar(self, path: Path, facts: Mapping[str, Any]) -> Sidecar:
        splits, device = self.trainer.splits, self.trainer.processes.facts()
        facts = {**facts, **self.trainer.facts()}
        made = checkpoint_sidecar(self.recipe, path, splits.labels, splits.preprocessing, device, facts)
        return replace(made, labels=None, wnids=None) if made.embeds else made


def _scalars(done: Epoch) -> dict[str, float | None]:
    return {
        "train/loss": done.loss,
        "train/top1_pct": done.top1_pct,
        "train/images_per_s": done.images_per_s,
        "train/learning_rate": done.learning_rate,
        "validation/loss": done.validation_loss,
        "validation/top1_pct": done.validation_top1_pct,
        **{f"gradient_norm/{layer}": norm for layer, norm in done.gradient_norms.items()},
    }
