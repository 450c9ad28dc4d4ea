"""What quantization-aware training reports of one INT8 graph."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgecnn.records import STRICT
from edgecnn.results.engine import Scheme


@dataclass(frozen=True)
class QatResult(os.PathLike[str]):
    """An INT8 graph that was trained; it stands for its file.

    `top1_pct` is of the test split (None where there is none), measured once with the weights kept, `validation_*` of
    the held-out training images that chose the best epoch; both in PyTorch. `sqnr_db` compares the logits of the graph
    in ONNX Runtime with those of the network that was trained.
    """

    __pydantic_config__ = STRICT

    graph: Path
    scheme: Scheme
    epochs: int
    best_epoch: int
    validation_top1_pct: float | None
    validation_n: int
    top1_pct: float | None
    n: int
    sqnr_db: float
    seconds: float
    corrupt_images: int

    def __fspath__(self) -> str:
        return str(self.graph)
