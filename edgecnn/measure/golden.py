"""Golden images: few, on which an engine and its reference clearly agree, and what it may make of them elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from edgecnn.errors import MeasurementError
from edgecnn.measure.predict import Predictions
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.release import SelfTest
from edgecnn.session import class_scores

GOLDEN_IMAGES = 20
SQNR_MARGIN_DB = 6.0  # twice the difference: these are other images than those that it was measured on
SQNR_ENOUGH_DB = 40.0  # 1 % of the logits: what a float engine loses more by another kernel is no fault


def golden_positions(reference: Predictions, changed: Collection[str], count: int = GOLDEN_IMAGES) -> list[int]:
    """At most `count` positions among the images whose top-1 the engine has not `changed`: of each class in turn that
    with the widest margin between the best two classes, where rounding changes nothing.

    Raises `MeasurementError` where there is none.
    """
    scores = class_scores(reference.logits, reference.threshold)
    best = np.partition(scores, -2, axis=1)[:, -2:]
    margin = best[:, 1] - best[:, 0]
    alike = [k for k, name in enumerate(reference.ids) if name not in changed and np.isfinite(margin[k])]
    if not alike:
        raise MeasurementError(
            f"{reference.dataset}: engine and reference agree on none of {len(reference.ids)} images",
            "release an engine that agrees with its reference",
        )
    turns = list[tuple[int, float, int]]()
    taken = Counter[int]()
    for k in sorted(alike, key=lambda k: -margin[k]):
        predicted = int(scores[k].argmax())
        turns.append((taken[predicted], -float(margin[k]), k))
        taken[predicted] += 1
    return sorted(k for _, _, k in sorted(turns)[:count])


def sqnr_limit(accuracy: Accuracy) -> float | None:
    """The SQNR that an engine of this `accuracy` has to keep on golden images; None where it gives no logits."""
    if accuracy.output != "logits":
        return None
    if accuracy.sqnr_db is None:  # without any difference
        return SQNR_ENOUGH_DB
    return min(accuracy.sqnr_db - SQNR_MARGIN_DB, SQNR_ENOUGH_DB)


def self_test_of(accuracy: Accuracy, limits: SelfTest) -> SelfTest:
    """The limits with what was measured on the golden images."""
    return SelfTest(
        golden_n=limits.golden_n,
        golden_images_n=accuracy.n,
        top1_changed_n=len(accuracy.changed),
        top1_changed_max=limits.top1_changed_max,
        nan_count=accuracy.nan_count,
        sqnr_db=accuracy.sqnr_db,
        sqnr_db_min=limits.sqnr_db_min,
    )
