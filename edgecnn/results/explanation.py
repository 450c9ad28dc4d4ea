"""Why an engine of a run is worse than its reference: what lost it, where it shows, and what to try next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT
from edgecnn.results.accuracy import Interval
from edgecnn.results.quantization import LayerNoise
from edgecnn.results.verdict import Check, Outcome

Stage = Literal["export", "fp16", "int8", "engine", "serving"]
Change = Literal["lost", "gained", "other"]
SAME_TIME_PCT = 95.0  # the confidence of all classes' intervals together


@dataclass(frozen=True, kw_only=True)
class StageLoss:
    """What one stage lost, paired on the same `n` images with a label: `before` and `after` are what predicted.

    The drop is in percentage points with its two-sided 95 % interval; None without labels. `told` is whether it can be
    told from no loss, at 5 % for all stages together (Holm's correction of McNemar's exact test).
    """

    __pydantic_config__ = STRICT

    stage: Stage
    before: str
    after: str
    n: int
    changed: int | None
    lost: int | None
    gained: int | None
    drop_pp: float | None
    drop_ci_pp: Interval | None
    mcnemar_p: float | None
    told: bool = False


@dataclass(frozen=True, kw_only=True)
class ClassDrop:
    """What one class lost. The intervals of all classes that were looked at hold together with 95 % (Bonferroni);
    `told` is whether this one lies above 0."""

    __pydantic_config__ = STRICT

    label: int
    label_name: str
    n: int
    lost: int
    gained: int
    drop_pp: float
    drop_ci_pp: Interval
    told: bool


@dataclass(frozen=True, kw_only=True)
class ImageChange:
    """An image whose top-1 class is not the reference's, by the names of the classes; "" without a label."""

    __pydantic_config__ = STRICT

    id: str
    label_name: str
    reference: str
    engine: str
    change: Change


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """A command to try. What it can give back is at most what the stage that it works on lost, which is the expected
    gain unless it is `estimated`: from the layers' share of the noise, or from another engine. None where nothing
    tells. `gives_up` is what goes with it."""

    __pydantic_config__ = STRICT

    remedy: str
    command: tuple[str, ...]
    why: str
    expected_gain_pp: float | None
    estimated: bool
    gives_up: str = ""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One engine of a run. `checks` are those of it that did not pass, `lost_by` the stage that lost most of those that
    can be told from none, `not_compared` why a stage is not among `stages`; `layers` have the largest share of the
    noise in the logits first, and stand in the sidecar `layers_from`. `classes_n` were looked at for `classes`, which
    holds those that lost or gained."""

    __pydantic_config__ = STRICT

    recipe: str
    target: str
    name: str
    verdict: Outcome
    simulation: str
    checks: tuple[Check, ...]
    data: str
    n: int
    n_labelled: int
    top1_pct: float | None
    reference_top1_pct: float | None
    top1_drop_pp: float | None
    top1_drop_ci_pp: Interval | None
    top1_lost: int | None
    top1_gained: int | None
    mcnemar_p: float | None
    agreement_pct: float | None
    findings: tuple[str, ...]
    stages: tuple[StageLoss, ...]
    not_compared: tuple[str, ...]
    lost_by: Stage | None
    layers: tuple[LayerNoise, ...]
    layers_from: str
    weights_logit_noise_pct: float | None
    kept_float32: tuple[str, ...]
    classes_n: int
    classes: tuple[ClassDrop, ...]
    images: tuple[ImageChange, ...]
    next_steps: tuple[NextStep, ...]
