"""Accuracy of an engine against its reference, paired on the same images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgecnn.contract import OutputForm
from edgecnn.records import FLAT, STRICT
from edgecnn.results.engine import EngineInfo
from edgecnn.results.serving import ServingLoss
from edgecnn.results.verification import Verification
from edgecnn.statistics import wilson_interval

Task = Literal["classification", "binary"]  # several classes, or one column that decides between two
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassLoss:
    """What one class lost: images of that label that only the reference, or only the engine, gets right."""

    __pydantic_config__ = STRICT

    label: int
    label_name: str
    n: int
    top1_lost: int
    top1_gained: int
    top1_drop_pp: float
    top1_drop_ci_pp: Interval


@dataclass(frozen=True)
class ClassShare:
    """How many of the `n` images with one label have that class as their top-1."""

    __pydantic_config__ = STRICT

    label: int
    label_name: str
    n: int
    top1_n: int


@dataclass(frozen=True)
class DecisionClass:
    """One class at the decision's threshold: recall among the `n` images of that label, of which `recall_n` were
    decided so, and precision among the images that were decided so; None without any. A drop is that from the
    reference."""

    __pydantic_config__ = STRICT

    label: int
    label_name: str
    n: int
    recall_n: int
    recall_pct: float | None
    reference_recall_pct: float | None
    recall_drop_pp: float | None
    recall_drop_ci_pp: Interval | None
    precision_pct: float | None
    reference_precision_pct: float | None
    precision_drop_pp: float | None
    precision_drop_ci_pp: Interval | None


@dataclass(frozen=True)
class ChangedImage:
    """An image on which engine and reference predict different classes; -1 is no label, and no finite logits."""

    __pydantic_config__ = STRICT

    id: str
    label: int
    reference: int
    engine: int


@dataclass(frozen=True)
class Paired:
    """One share (top-1, top-5) of the engine and of its reference, in per cent, with the drop in percentage points."""

    pct: float | None
    reference_pct: float | None
    drop_pp: float | None
    drop_ci_pp: Interval | None
    lost: int | None
    gained: int | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Accuracy:
    """What an engine keeps of its reference on `n` images, of which `n_labelled` have a label.

    Shares are in per cent, drops in percentage points with two-sided 95 % intervals. An image whose logits are not
    finite counts as wrong and as changed. What needs labels is None without them, and top-5 is None for five classes
    or fewer. Each `guess_p` is how probable it is that guessing with the same frequencies does as well: of the engine
    and of the reference against the labels, of the engine against the reference, and of a copy of the reference.
    `top1_bits` are packed bits of which labelled images are right, in the order of their ids; `images_sha256` says
    which images those are. `calibration_error_pp` is how far the engine's confidence is from the reference's, and what
    begins with `decision` is None where no threshold decides.
    `output` is what the engine gives by its serving contract: without logits there is no SQNR. `serving` is what
    another geometry costs, where it was measured.
    """

    __pydantic_config__ = STRICT

    name: str
    task: Task = "classification"
    output: OutputForm = "logits"
    data: str
    n: int
    n_labelled: int
    classes: int
    top1_pct: float | None
    top5_pct: float | None
    reference_top1_pct: float | None
    reference_top5_pct: float | None
    top1_drop_pp: float | None
    top1_drop_ci_pp: Interval | None
    top1_lost: int | None
    top1_gained: int | None
    top5_drop_pp: float | None
    top5_drop_ci_pp: Interval | None
    top5_lost: int | None
    top5_gained: int | None
    mcnemar_p: float | None
    top1_guess_p: float | None
    reference_top1_guess_p: float | None
    agreement_pct: float
    agreement_ci_pct: Interval
    agreement_n: int
    agreement_guess_p: float
    copy_guess_p: float
    sqnr_db: float | None
    nan_count: int
    unreadable: tuple[str, ...]
    findings: tuple[str, ...]
    worst_classes: tuple[ClassLoss, ...]
    changed: tuple[ChangedImage, ...]
    top1_n: int | None = None
    top5_n: int | None = None
    images_sha256: str = ""
    top1_bits: str = ""
    class_top1: tuple[ClassShare, ...] = ()
    calibration_error_pp: float | None = None
    calibration_error_ci_pp: Interval | None = None
    decision_flips_n: int | None = None
    decision_flips_pct: float | None = None
    decision_flips_ci_pct: Interval | None = None
    decision_guess_p: float | None = None
    decision_copy_guess_p: float | None = None
    decision_rejected_pct: float | None = None
    reference_decision_rejected_pct: float | None = None
    decision_classes: tuple[DecisionClass, ...] = ()
    serving: ServingLoss | None = field(default=None, metadata=FLAT)

    def __repr__(self) -> str:
        parts = [f"agreement {self.agreement_pct:.1f} %"]
        if self.top1_pct is not None:
            parts.insert(0, f"top-1 {self.top1_pct:.1f} %")
        if self.top1_drop_pp is not None and self.top1_drop_ci_pp is not None:
            low, high = self.top1_drop_ci_pp
            parts.insert(1, f"drop {self.top1_drop_pp:.2f} pp [{low:.1f}, {high:.1f}]")
        return f"Accuracy({self.name}: {', '.join(parts)}, n={self.n})"

    @property
    def top1(self) -> Paired:
        """Top-1 in one piece: `accuracy.top1.drop_pp`."""
        return Paired(
            self.top1_pct,
            self.reference_top1_pct,
            self.top1_drop_pp,
            self.top1_drop_ci_pp,
            self.top1_lost,
            self.top1_gained,
        )

    @property
    def top1_ci_pct(self) -> Interval | None:
        """The 95 % interval of top-1 (Wilson's); None without labels."""
        if self.top1_pct is None or not self.n_labelled:
            return None
        right = round(self.top1_pct * self.n_labelled / 100) if self.top1_n is None else self.top1_n
        low, high = wilson_interval(right, self.n_labelled)
        return 100 * low, 100 * high

    @property
    def top5(self) -> Paired:
        """Top-5 in one piece."""
        return Paired(
            self.top5_pct,
            self.reference_top5_pct,
            self.top5_drop_pp,
            self.top5_drop_ci_pp,
            self.top5_lost,
            self.top5_gained,
        )


@dataclass(frozen=True, kw_only=True)
class AccuracyFile:
    """`X.accuracy.json`: the accuracy of one engine, of an embedding how it verifies, and which one it is."""

    __pydantic_config__ = STRICT

    name: str = ""  # that of its result, which need not be said again
    accuracy: Accuracy | None = field(default=None, metadata=FLAT)
    verification: Verification | None = field(default=None, metadata=FLAT)
    engine: EngineInfo = field(metadata=FLAT)

    def __post_init__(self) -> None:
        """Takes the name of the accuracy, or of the verification."""
        found = self.accuracy or self.verification
        if found is not None and not self.name:
            object.__setattr__(self, "name", found.name)
