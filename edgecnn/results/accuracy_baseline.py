"""Accuracies that were accepted for a recipe, image by image, and what a later run lost against them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from edgecnn.records import STRICT
from edgecnn.results.accuracy import Interval
from edgecnn.results.engine import Scheme


@dataclass(frozen=True, kw_only=True)
class AcceptedAccuracy:
    """What one engine had right on which images, as in `Accuracy`."""

    __pydantic_config__ = STRICT
    DERIVED: ClassVar[tuple[str, ...]] = ("top1_pct",)

    data: str
    images_sha256: str
    n_labelled: Annotated[int, Ge(1)]
    classes: int
    agreement_pct: float
    top1_n: int
    top1_bits: str

    @property
    def top1_pct(self) -> float:
        """Per cent of the labelled images that were right."""
        return 100 * self.top1_n / self.n_labelled


@dataclass(frozen=True, kw_only=True)
class AccuracyBaseline:
    """The accuracy of one kind of engine that was accepted last, and the best one ever."""

    __pydantic_config__ = STRICT

    provider: str
    scheme: Scheme
    last: AcceptedAccuracy
    best: AcceptedAccuracy


@dataclass(frozen=True, kw_only=True)
class AccuracyBaselines:
    """`<backend>-<precision>.json`: one baseline for each provider and Q/DQ scheme."""

    __pydantic_config__ = STRICT

    backend: str
    precision: str
    engines: tuple[AccuracyBaseline, ...]


@dataclass(frozen=True, kw_only=True)
class BaselineDrop:
    """Top-1 that was lost against a baseline of `top1_pct` on `n` images, in percentage points with its 95 % interval:
    `paired` on the same images, where `lost` and `gained` are counted, else of two samples."""

    __pydantic_config__ = STRICT

    baseline: Literal["last", "best"]
    top1_pct: float
    agreement_pct: float
    n: int
    top1_n: int
    paired: bool
    lost: int | None
    gained: int | None
    drop_pp: float
    drop_ci_pp: Interval
