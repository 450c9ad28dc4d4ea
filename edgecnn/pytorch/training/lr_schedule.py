"""Learning rates as a function of the position in training, so that a resumed run cannot differ from a whole one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgecnn.recipe.schema import TrainSettings

ONE_CYCLE_RISE = 0.3  # share of training in which the rate rises, from 1/25 of its peak; it ends at 1/250 000
ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1 / 250_000


@dataclass
class Plateau:
    """The only schedule with a memory: the rate falls when the validation top-1 has not improved for a while."""

    scale: float = 1.0
    best: float = -1.0
    waited: int = 0

    def after_epoch(self, top1_pct: float, settings: TrainSettings) -> None:
        """Count an epoch without improvement; fall by `factor` after `patience` of them."""
        if top1_pct > self.best:
            self.best, self.waited = top1_pct, 0
            return
        self.waited += 1
        if self.waited >= settings.patience:
            self.scale, self.waited = self.scale * settings.factor, 0


def learning_rate_factor(settings: TrainSettings, step: int, steps_per_epoch: int, plateau: Plateau) -> float:
    """What the learning rate is multiplied by at `step` (from 0): linear warm-up, then the schedule.

    Cosine: Loshchilov and Hutter 2017, without restarts. One-cycle: Smith and Topin 2018, with cosine flanks, the
    rate alone. Step and plateau: divided as the papers of the classic networks do.
    """
    warmup, total = round(settings.warmup_epochs * steps_per_epoch), settings.epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    if settings.lr_schedule == "step":
        return settings.factor ** sum(step // steps_per_epoch >= m for m in settings.milestones or ())
    if settings.lr_schedule == "plateau":
        return plateau.scale
    if settings.lr_schedule == "constant":
        return 1.0
    if settings.lr_schedule == "cosine":
        return _flank(1.0, 0.0, (step - warmup) / max(1, total - warmup))
    peak = ONE_CYCLE_RISE * (total - warmup) - 1
    if step - warmup <= peak:
        return _flank(ONE_CYCLE_START, 1.0, (step - warmup) / max(peak, 1e-9))
    return _flank(1.0, ONE_CYCLE_END, (step - warmup - peak) / max(1e-9, total - warmup - 1 - peak))


def _flank(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` (share 0) to `end` (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
