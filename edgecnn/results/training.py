"""What training reports: an epoch, a whole run, and where the weights came from that it began with."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Epoch:
    """A completed epoch; the validation figures are None where no images are held out, `gradient_norms` by layer are
    recorded where `train.gradient_norms` asks for them."""

    __pydantic_config__ = STRICT

    epoch: int
    epochs: int
    loss: float
    top1_pct: float
    validation_loss: float | None
    validation_top1_pct: float | None
    images_per_s: float
    seconds: float
    learning_rate: float
    gradient_norms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult(os.PathLike[str]):
    """What training made; it stands for its checkpoint where a file is asked for.

    `top1_pct` and `top5_pct` are of the test split (None where there is none), measured once, with the weights kept;
    `validation_*` are of the held-out training images that chose the best epoch.
    """

    __pydantic_config__ = STRICT

    checkpoint: Path
    epochs: int
    best_epoch: int
    train_loss: float
    validation_top1_pct: float | None
    validation_n: int
    top1_pct: float | None
    top5_pct: float | None
    n: int
    images_per_s: float
    seconds: float
    corrupt_images: int

    def __fspath__(self) -> str:
        return str(self.checkpoint)


@dataclass(frozen=True)
class WeightsInfo:
    """Where weights came from, as it stands in a sidecar; `weights_notes` lists what was accepted although it is not as
    the network names it."""

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True

    weights: str
    weights_sha256: str = ""
    weights_url: str = ""
    weights_license: str = ""
    weights_notes: tuple[str, ...] = ()
