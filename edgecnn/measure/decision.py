"""An engine where it decides: confidence and decisions at a threshold, against the reference on the same images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgecnn.data.dataset import nfc
from edgecnn.errors import RecipeError, nearest
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import DecisionSettings
from edgecnn.results.accuracy import Accuracy, DecisionClass, Interval
from edgecnn.session import class_probabilities
from edgecnn.statistics import Z95, Floats, drop_intervals, guess_p, wilson_interval

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

REJECTED, NOT_FINITE = -1, -2  # in place of a class
BINS, LEAST_IN_BIN = 15, 20
CHUNK = 4096  # images whose probabilities are looked at together


def measure_operating_point(
    accuracy: Accuracy, engine: Predictions, reference: Predictions, decision: DecisionSettings
) -> Accuracy:
    """`accuracy` with the calibration error, and with what is decided where a threshold says so; both predictions are
    of the same images. What names its best classes alone has no probability of the others, and tells neither. Raises
    `RecipeError` for a threshold that does not fit the classes."""
    thresholds = decision_thresholds(decision, engine.label_names, engine.classes)
    if "top-k" in (engine.output, reference.output):
        return accuracy
    seen = _look(engine, reference, thresholds)
    if seen.difference is not None:
        value, ci = calibration_error(seen.confidence, seen.difference)
        accuracy = replace(accuracy, calibration_error_pp=100 * value, calibration_error_ci_pp=_percent(ci))
    if thresholds is None:
        return accuracy
    ours, theirs, n = seen.ours, seen.theirs, len(engine.ids)
    flips = int((ours != theirs).sum())
    told, others = (np.where(d == REJECTED, engine.classes, np.maximum(d, -1)) for d in (ours, theirs))
    return replace(
        accuracy,
        decision_flips_n=flips,
        decision_flips_pct=100 * flips / n,
        decision_flips_ci_pct=_percent(wilson_interval(flips, n)),
        decision_rejected_pct=100 * float((ours == REJECTED).mean()),
        reference_decision_rejected_pct=100 * float((theirs == REJECTED).mean()),
        decision_guess_p=guess_p(others, told),
        decision_copy_guess_p=guess_p(others, others),
        decision_classes=tuple(_decision_classes(engine, ours, theirs)),
    )


def decision_thresholds(decision: DecisionSettings, names: Sequence[str], classes: int) -> Floats | None:
    """The threshold of each class, NaN for one that needs none; None where none is set. Raises `RecipeError` for a
    class that does not exist, and for thresholds that leave open what is decided below them."""
    wanted = decision.threshold
    if wanted is None and not decision.reject:
        return None
    if wanted is None or wanted == {}:
        raise RecipeError(
            "decision.reject = true without a threshold" if wanted is None else "decision.threshold names no class",
            "set decision.threshold to one number from 0 to 1, or to one for each class by name",
        )
    if not isinstance(wanted, dict):
        if classes > 2 and not decision.reject:
            raise RecipeError(
                f"decision.threshold = {wanted:g}: what is decided below it, of {classes} classes, is not said",
                "set decision.reject = true, or a threshold for some classes by name",
            )
        return np.array([wanted if decision.reject else math.nan, *[wanted] * (classes - 1)])
    known = {nfc(names[k]) if k < len(names) else str(k): k for k in range(classes)}
    wanted = {nfc(name): value for name, value in wanted.items()}
    for name in wanted:
        if name not in known:
            raise RecipeError(
                f"decision.threshold names the class {name[:60]!r}, which is none of the {classes}",
                nearest(name, known) or f"the classes are {', '.join(list(known)[:10])}",
            )
    thresholds = np.array([wanted.get(name, math.nan) for name in known])
    if decision.reject != (len(wanted) == classes):
        left = next((name for name in known if name not in wanted), None)
        raise RecipeError(
            "decision.reject = true: the class " + repr(left) + " has no threshold, so nothing would be rejected"
            if left
            else "decision.threshold: every class has one, and what is decided below all of them is not said",
            "name a threshold for each class" if left else "set decision.reject = true, or leave one class out",
        )
    return thresholds


def decide(probabilities: Floats, thresholds: Floats) -> Integers:
    """[N] classes for probabilities [N, C]: the most probable class that reaches its threshold, else the most probable
    one without any, else REJECTED; NOT_FINITE for a row that is not."""
    free = np.isnan(thresholds)
    reached = np.where(probabilities >= np.where(free, np.inf, thresholds), probabilities, -1.0)
    others = np.where(free, probabilities, -1.0)
    below = others.argmax(axis=1) if free.any() else np.full(len(probabilities), REJECTED)
    decided = np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), below)
    return np.where(np.isfinite(probabilities).all(axis=1), decided, NOT_FINITE).astype(np.int64)


@dataclass(frozen=True)
class _Seen:
    """Per image: the engine's probability of the class that it predicts, that less the reference's of the same class
    (None where one is not finite), and both decisions (empty without thresholds)."""

    confidence: Floats
    difference: Floats | None
    ours: Integers
    theirs: Integers


def _look(engine: Predictions, reference: Predictions, thresholds: Floats | None) -> _Seen:
    n = len(engine.ids)
    confidence, difference = np.empty(n), np.empty(n)
    ours, theirs = np.empty(n, np.int64), np.empty(n, np.int64)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        own, other = (class_probabilities(p.logits[part], p.threshold, p.output) for p in (engine, reference))
        top = np.nan_to_num(own).argmax(axis=1)[:, None]
        confidence[part] = np.take_along_axis(own, top, 1)[:, 0]
        difference[part] = confidence[part] - np.take_along_axis(other, top, 1)[:, 0]
        if thresholds is not None:
            ours[part], theirs[part] = decide(own, thresholds), decide(other, thresholds)
    return _Seen(confidence, difference if np.isfinite(difference).all() else None, ours, theirs)


def calibration_error(confidence: Floats, difference: Floats) -> tuple[float, Interval]:
    """How far an engine's confidence is from what it should be, with a 95 % interval: the expected calibration error
    (Naeini, Cooper, Hauskrecht, AAAI 2015) in bins of as many images each (Nguyen and O'Connor, EMNLP 2015), where the
    reference's probability of the same class stands for the outcome.

    So it needs no labels, and confidences that are scaled are an error even where they fit the labels better than the
    reference's. `confidence` and `difference` (engine less reference) are [N]. Noise makes the mean of a bin look
    larger than it is: the lower end is without that part (Kumar, Liang, Ma, NeurIPS 2019). The upper end allows for the
    share of images that may be wholly different where none of `n` was (Wilson's: 1 % of 381).
    """
    n = len(confidence)
    ordered = difference[np.argsort(confidence, kind="stable")]
    parts = np.array_split(ordered, max(1, min(BINS, n // LEAST_IN_BIN)))
    share = np.array([len(part) / n for part in parts])
    mean = np.array([part.mean() for part in parts])
    # fewer images tell nothing of how they vary: as much as they can
    variance = np.array([(part.var(ddof=1) if len(part) >= LEAST_IN_BIN else 1.0) / len(part) for part in parts])
    value = float((share * np.abs(mean)).sum())
    without_noise = float((share * np.sqrt(np.maximum(mean**2 - variance, 0.0))).sum())
    one_more = float(np.abs(difference).max()) / n  # an image like the worst one may be missing by chance
    half = Z95 * math.sqrt(float((share**2 * variance).sum()) + one_more**2)
    unseen = wilson_interval(0, n)[1]  # so many images may be wholly different, and none of them here
    return value, (max(0.0, without_noise - half), min(1.0, value + math.hypot(half, unseen)))


def _decision_classes(engine: Predictions, ours: Integers, theirs: Integers) -> Iterator[DecisionClass]:
    """Recall and precision of every class; nothing without labels."""
    labelled = engine.labels >= 0
    if not labelled.any():
        return
    labels, ours, theirs = engine.labels[labelled], ours[labelled], theirs[labelled]
    classes = engine.classes
    n, right, others_right, lost, gained = (
        np.bincount(labels[chosen], minlength=classes)
        for chosen in (
            labels >= 0,
            ours == labels,
            theirs == labels,
            (theirs == labels) & (ours != labels),
            (ours == labels) & (theirs != labels),
        )
    )
    low, high = drop_intervals(lost, gained, np.maximum(n, 1).astype(np.float64))
    for k in range(classes):
        precision, other, drop, ci = paired_precision(labels == k, ours == k, theirs == k)
        some = int(n[k]) > 0
        yield DecisionClass(
            label=k,
            label_name=engine.label_names[k] if k < len(engine.label_names) else str(k),
            n=int(n[k]),
            recall_n=int(right[k]),
            recall_pct=100 * float(right[k] / n[k]) if some else None,
            reference_recall_pct=100 * float(others_right[k] / n[k]) if some else None,
            recall_drop_pp=100 * float((lost[k] - gained[k]) / n[k]) if some else None,
            recall_drop_ci_pp=(100 * float(low[k]), 100 * float(high[k])) if some else None,
            precision_pct=None if precision is None else 100 * precision,
            reference_precision_pct=None if other is None else 100 * other,
            precision_drop_pp=None if drop is None else 100 * drop,
            precision_drop_ci_pp=None if ci is None else _percent(ci),
        )


def paired_precision(
    truth: Bools, ours: Bools, theirs: Bools
) -> tuple[float | None, float | None, float | None, Interval | None]:
    """Precision of engine and reference, and the drop with its 95 % interval on the same images (the paired comparison
    of predictive values of Moskowitz and Pepe, Clinical Trials 3, 2006, with half an image more on either side)."""
    counts = int(ours.sum()), int(theirs.sum())
    own, other = (float(truth[d].mean()) if count else None for d, count in zip((ours, theirs), counts, strict=True))
    if own is None or other is None:
        return own, other, None, None
    influence = theirs * (truth - other) / counts[1] - ours * (truth - own) / counts[0]
    half = Z95 * math.sqrt(float((influence**2).sum()) + 0.5 / counts[0] ** 2 + 0.5 / counts[1] ** 2)
    drop = other - own
    return own, other, drop, (max(-1.0, drop - half), min(1.0, drop + half))


def _percent(interval: tuple[float, float]) -> Interval:
    return 100 * interval[0], 100 * interval[1]
