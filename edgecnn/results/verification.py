"""How well an embedding tells whether two images are of one class, beside its reference on the same pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT

Interval = tuple[float, float]


@dataclass(frozen=True)
class ChosenThreshold:
    """What an embedding network is judged by, as it stands in its sidecar: two images are of one class where their
    squared distance is at most `threshold`, which was chosen on `validation_pairs` of the `validation_classes` with the
    network in PyTorch; `validation_pct` is the accuracy there. On none of the `train_classes` can it be tested."""

    __pydantic_config__ = STRICT

    threshold: float
    validation_pct: float
    validation_pairs: int
    train_classes: tuple[str, ...]
    validation_classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Verification:
    """An embedding engine against its reference, on pairs of `verification_n` images of `identities` classes that
    neither training nor the threshold saw: `same_pairs` of one class, `different_pairs` of two.

    `verification_pct` is the accuracy at `verification_threshold` (a squared distance), the mean of the shares of same
    pairs that are taken for same and of different ones that are not; the drop is the reference's minus the engine's in
    percentage points. `roc_auc` is that of the distances (Mann and Whitney), `tar_at_far_1e2_pct` the share of same
    pairs accepted where 1 % of the different ones are; it is None with fewer than 100 expected false accepts. Intervals
    are of 95 % by the bootstrap over `resampled` (Bolle, Ratha, Pankanti 2004). Cosines are between the two embeddings
    of an image.
    """

    __pydantic_config__ = STRICT

    name: str
    verification_data: str
    verification_n: int
    identities: int
    same_pairs: int
    different_pairs: int
    resampled: Literal["identities", "images"]
    verification_threshold: float
    verification_pct: float
    verification_ci_pct: Interval
    reference_verification_pct: float
    verification_drop_pp: float
    verification_drop_ci_pp: Interval
    decisions_changed_n: int
    decisions_changed_pct: float
    decisions_changed_ci_pct: Interval
    roc_auc: float
    roc_auc_ci: Interval
    reference_roc_auc: float
    reference_roc_auc_ci: Interval
    tar_at_far_1e2_pct: float | None
    tar_at_far_1e2_ci_pct: Interval | None
    reference_tar_at_far_1e2_pct: float | None
    tar_at_far_1e3_pct: float | None
    tar_at_far_1e3_ci_pct: Interval | None
    reference_tar_at_far_1e3_pct: float | None
    embedding_cosine_mean: float | None
    embedding_cosine_least: float | None
    embedding_worst_image: str
    embedding_sqnr_db: float | None
    verification_nan_count: int
    verification_unreadable: tuple[str, ...]
    verification_findings: tuple[str, ...]

    def __repr__(self) -> str:
        low, high = self.verification_drop_ci_pp
        return (
            f"Verification({self.name}: {self.verification_pct:.1f} %, drop {self.verification_drop_pp:.2f} pp "
            f"[{low:.1f}, {high:.1f}], ROC AUC {self.roc_auc:.4f}, {self.same_pairs + self.different_pairs} pairs)"
        )


@dataclass(frozen=True)
class SamePair:
    """Whether two images are of one class: their squared `distance` (0 to 4) against the `threshold`."""

    __pydantic_config__ = STRICT

    images: tuple[str, str]
    distance: float
    threshold: float
    same: bool
