"""What linear probes say about the stages of a network."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class StageProbe:
    """A stage and what a linear classifier makes of it: `validation_top1_pct` is cross-validated on the n training
    images and is what to choose by, `top1_pct` is of the test split (None where there is none)."""

    __pydantic_config__ = STRICT

    name: str
    features: int
    decay: float
    validation_top1_pct: float
    n: int
    top1_pct: float | None
    test_n: int
