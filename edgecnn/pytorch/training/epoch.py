"""One network, what updates it, and its images: an epoch of training, and evaluation."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import TrainingError
from edgecnn.pytorch.training.augment import key, mix_images
from edgecnn.pytorch.training.gradients import GradientMeter
from edgecnn.pytorch.training.loader import Batch, ImageLoader, Positions, Source
from edgecnn.pytorch.training.lr_schedule import Plateau, learning_rate_factor
from edgecnn.pytorch.training.optimizer import MovingAverage, ParameterGroup, make_optimizer
from edgecnn.pytorch.training.process_group import ProcessGroup
from edgecnn.pytorch.training.progress import Progress, Step
from edgecnn.recipe.schema import TrainSettings

REPORT_S = 0.2  # between two looks at the running loss (a look waits for the device)
REPORTS = 50  # looks in an epoch of several processes, which must look together
DIVERGED = 10.0  # an epoch's mean loss above this many times that of guessing
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy over n images; of an embedding the area under the ROC curve of their pairs besides, by
    which epochs are then compared."""

    loss: float
    top1_pct: float
    top5_pct: float
    n: int
    roc_auc: float | None = None


@dataclass
class DataSplits:
    """The images of a run: `train` is what is learned from, `validation` what chooses the epoch."""

    train: Source
    validation: Source | None
    test: ImageLoader | None
    labels: list[str]
    preprocessing: Preprocessing

    def identity(self) -> dict[str, str | list[str]]:
        """What all processes of a job must have alike."""
        sources = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "labels": self.labels,
            **{f"{k} images": s.sha256 for k, s in sources.items() if s is not None},
        }

    def corrupt(self, processes: ProcessGroup) -> int:
        """How many unreadable images any process left out."""
        sources = [source for source in (self.train, self.validation, self.test) if source]
        return sum(len(set().union(*processes.all_gather(sorted(source.corrupt)))) for source in sources)


@dataclass
class Learner:
    """A network, and which part of it learns: `body` maps a source's inputs to logits (the network itself, or what
    follows the frozen part), `groups` are the optimizer's, `frozen` the submodules that stay in eval mode. With a
    `teacher` its probabilities are learned in place of labels (Hinton et al., arXiv:1503.02531)."""

    network: nn.Module
    body: nn.Module
    groups: list[ParameterGroup]
    frozen: list[nn.Module] = field(default_factory=list)
    auxiliary_weight: float = 0.0
    teacher: nn.Module | None = None


class Trainer:
    """A network, what updates it, and the images; `train_epoch` and `evaluate` are all it does."""

    def __init__(
        self, settings: TrainSettings, learner: Learner, splits: DataSplits, processes: ProcessGroup, progress: Progress
    ) -> None:
        self.settings, self.learner, self.splits = settings, learner, splits
        self.processes, self.progress = processes, progress
        self.network = learner.network
        self.body = processes.parallel(learner.body)
        self.optimizer = make_optimizer(learner.groups, settings)
        self.average = MovingAverage(self.network, settings.ema) if settings.ema else None
        self.gradients = GradientMeter(self.network) if settings.gradient_norms else None
        self.plateau = Plateau()
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.amp == "fp16")
        self.count = len(splits.train.readable)
        self.steps = self.count // settings.batch
        if not self.steps:
            raise TrainingError(
                f"{self.count} readable training images make no batch of {settings.batch}",
                f"lower train.batch to at most {self.count}, or mend the unreadable images",
            )
        self.rate = 0.0

    def train_epoch(self, epoch: int) -> tuple[float, float, float]:
        """One pass; (mean loss, top-1 in percent, images/s). Raises `TrainingError` when the loss is not finite."""
        settings, processes = self.settings, self.processes
        torch.manual_seed(key(settings.seed, epoch, "dropout", processes.rank))
        self.network.train()
        for module in self.learner.frozen:
            module.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=processes.device)  # loss, correct, images
        started = looked = time.monotonic()
        for step, batch in enumerate(self.splits.train.batches(self._order(epoch), epoch), 1):
            self._set_rate(epoch * self.steps + step - 1)
            sums += self._step(batch, key(settings.seed, epoch, step, "mix", processes.rank), epoch)
            now = time.monotonic()
            if now - looked > REPORT_S if processes.size == 1 else step % max(1, self.steps // REPORTS) == 0:
                looked = now
                loss, top1_pct, images = self._means(processes.all_reduce(sums.clone()), epoch)
                speed = images / (now - started)
                self.progress.step(Step(epoch + 1, settings.epochs, step, self.steps, loss, top1_pct, speed, self.rate))
        processes.broadcast(self.network.buffers())
        if self.average is not None:
            processes.broadcast(self.average.weights.values())
        loss, top1_pct, images = self._means(processes.all_reduce(sums), epoch)
        guessing = self.guessing_loss()
        if loss > DIVERGED * guessing:
            raise TrainingError(
                f"training diverged: the mean loss of epoch {epoch + 1} is {loss:.3g}; guessing gives {guessing:.3g}",
                f"lower train.learning_rate (now {settings.learning_rate:g}), or set train.warmup_epochs",
            )
        return loss, top1_pct, images / (time.monotonic() - started)

    def _order(self, epoch: int) -> Iterator[Positions]:
        """This process's part of each batch; the last images that fill no batch wait for the next epoch."""
        random = np.random.default_rng(key(self.settings.seed, epoch, "order"))
        order = self.splits.train.readable[random.permutation(self.count)]
        size = self.settings.batch
        for step in range(self.steps):
            yield self.processes.shard(order[step * size : (step + 1) * size])

    def _set_rate(self, step: int) -> None:
        factor = learning_rate_factor(self.settings, step, self.steps, self.plateau)
        self.rate = self.settings.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["share"]

    def _step(self, batch: Batch, seed: int, epoch: int) -> Tensor:
        """Forward, backward, update; (sum of losses, correct, images) on the device."""
        settings, processes = self.settings, self.processes
        x = self._prepared(self.splits.train.inputs(batch, epoch))
        label, partners, share = batch.label, None, 1.0
        if settings.mixup or settings.cutmix:
            x, partners, share = mix_images(x, settings.mixup, settings.cutmix, seed)
        with self._autocast():
            outputs = self.body(x)
            heads = outputs if isinstance(outputs, tuple) else (outputs,)
            if self.learner.teacher is not None:
                with torch.no_grad():
                    wanted = self.learner.teacher(x).float().softmax(1)
                loss = self._loss(heads, wanted)
            else:
                loss = self._loss(heads, label) * share
            if partners is not None and self.learner.teacher is None:
                loss = loss + self._loss(heads, label[partners]) * (1 - share)
        # Processes average their gradients: weigh by this one's part of the whole batch.
        self.scaler.scale(loss * (len(label) * processes.size / settings.batch)).backward()  # type: ignore[no-untyped-call]
        if settings.clip_norm or self.gradients is not None:
            self.scaler.unscale_(self.optimizer)
        if self.gradients is not None:
            self.gradients.add()
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network)
        correct = self._count_right(heads[0].detach(), label)
        return torch.stack(
            [loss.detach().double() * len(label), correct.double(), correct.new_full((), len(label)).double()]
        )

    def _loss(self, heads: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
        smoothing = self.settings.label_smoothing
        main, *auxiliary = (F.cross_entropy(logits.float(), wanted, label_smoothing=smoothing) for logits in heads)
        return main + self.learner.auxiliary_weight * sum(auxiliary, main.new_zeros(()))

    def _count_right(self, output: Tensor, label: Tensor) -> Tensor:
        return (output.argmax(1) == label).sum()

    def guessing_loss(self) -> float:
        """The loss of a network that knows nothing."""
        return math.log(len(self.splits.labels))

    def _prepared(self, x: Tensor) -> Tensor:
        wanted = self.settings.channels_last and x.ndim == 4
        return x.contiguous(memory_format=torch.channels_last) if wanted else x

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.settings.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.processes.device.type, dtype, enabled=self.settings.amp != "off")

    def _means(self, sums: Tensor, epoch: int) -> tuple[float, float, float]:
        loss, correct, images = sums.tolist()
        if not math.isfinite(loss):
            raise TrainingError(
                f"training stopped in epoch {epoch + 1}: the loss is {loss}",
                f"lower train.learning_rate (now {self.settings.learning_rate:g}) or set train.clip_norm; "
                f"the checkpoint of epoch {epoch} is intact"
                if epoch
                else "lower train.learning_rate "
                f"(now {self.settings.learning_rate:g}) or set train.clip_norm; no epoch was completed",
            )
        return loss / max(1, images), 100 * correct / max(1, images), images

    def facts(self) -> Mapping[str, Any]:
        """What the sidecars of all its checkpoints say besides."""
        return {}

    def closing_facts(self) -> Mapping[str, Any]:
        """What that of the result says besides, of the weights that are kept."""
        return {}

    @torch.no_grad()
    def evaluate(self, source: Source, body: nn.Module | None = None) -> Score:
        """Loss, top-1 and top-5 over all readable images, shared between the processes."""
        body = self.learner.body if body is None else body
        self.network.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.processes.device)
        mine = self.processes.shard(source.readable)
        order = (mine[start : start + EVALUATION_BATCH] for start in range(0, len(mine), EVALUATION_BATCH))
        with self.averaged():
            for batch in source.batches(order):
                with self._autocast():
                    logits = body(self._prepared(source.inputs(batch))).float()
                hits = logits.topk(min(5, logits.shape[1])).indices == batch.label[:, None]
                loss = F.cross_entropy(logits, batch.label, reduction="sum")
                sums += torch.stack(
                    [loss.double(), hits[:, 0].sum(), hits.sum(), hits.new_full((), 1).long() * len(hits)]
                )
        loss_sum, top1, top5, n = self.processes.all_reduce(sums).tolist()
        return Score(loss_sum / max(1, n), 100 * top1 / max(1, n), 100 * top5 / max(1, n), int(n))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The moving average in place of the weights, where there is one."""
        if self.average is None:
            yield
            return
        raw = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.weights)
        try:
            yield
        finally:
            self.network.load_state_dict(raw)
