"""Accuracy of an engine against its reference, paired on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.errors import MeasurementError
from edgecnn.measure.predict import Predictions
from edgecnn.session import Array, class_scores
from edgecnn.statistics import drop_interval, mcnemar_p, wilson_interval

Bools = npt.NDArray[np.bool_]
WORST_CLASSES = 10
CHUNK = 4096  # images whose logits are looked at together


@dataclass(frozen=True)
class Accuracy:
    """What an engine keeps of its reference on `n` images, of which `n_labelled` have a label.

    Shares are in per cent, drops in percentage points with two-sided 95 % intervals. An image whose logits are not
    finite counts as wrong and as changed. What needs labels is None without them, and top-5 is None for five classes
    or fewer. The chance levels are what a constant answer reaches: the share of the most frequent class, of the labels
    for top-1 and of the reference's predictions for agreement (never below 1 / `classes`).
    """

    name: str
    data: str
    n: int
    n_labelled: int
    classes: int
    top1_pct: float | None
    top5_pct: float | None
    reference_top1_pct: float | None
    reference_top5_pct: float | None
    top1_drop_pp: float | None
    top1_drop_ci_pp: tuple[float, float] | None
    top1_lost: int | None
    top1_gained: int | None
    top5_drop_pp: float | None
    top5_drop_ci_pp: tuple[float, float] | None
    top5_lost: int | None
    top5_gained: int | None
    mcnemar_p: float | None
    top1_chance_pct: float | None
    agreement_pct: float
    agreement_ci_pct: tuple[float, float]
    agreement_n: int
    agreement_chance_pct: float
    sqnr_db: float | None
    nan_count: int
    unreadable: tuple[str, ...]
    findings: tuple[str, ...]
    worst_classes: tuple[dict[str, Any], ...]
    changed: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """A flat object with units in its names."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class _Scored:
    """Per image: predicted class (-1 where the logits are not finite), label among the first 1 and 5."""

    predicted: npt.NDArray[np.int64]
    top1: Bools
    top5: Bools


def measure_accuracy(name: str, engine: Predictions, reference: Predictions) -> Accuracy:
    """Compare predictions on the same images; raises `MeasurementError` that names the first difference where
    preprocessing, labels, images or classes are not the same."""
    left_out = set(engine.unreadable) | set(reference.unreadable)
    engine, reference = engine.without(left_out), reference.without(left_out)
    require_comparable(engine, reference)
    ours, theirs = _scored(engine), _scored(reference)
    if broken := int((theirs.predicted < 0).sum()):
        raise MeasurementError(
            f"the reference has logits that are not finite on {broken} of {len(reference.ids)} images, the first is "
            f"{reference.ids[int(np.argmin(theirs.predicted))]}",
            "mend the reference first: nothing can be measured against it",
        )
    n, classes = len(engine.ids), engine.classes
    labelled = engine.labels >= 0
    agree = ours.predicted == theirs.predicted
    low, high = wilson_interval(int(agree.sum()), n)
    nan_count = int((ours.predicted < 0).sum())
    return Accuracy(
        name=name,
        data=engine.dataset,
        n=n,
        n_labelled=int(labelled.sum()),
        classes=classes,
        **_paired("top1", ours.top1[labelled], theirs.top1[labelled]),
        **_paired("top5", ours.top5[labelled & (classes > 5)], theirs.top5[labelled & (classes > 5)]),
        mcnemar_p=_mcnemar(ours.top1[labelled], theirs.top1[labelled]),
        top1_chance_pct=_chance_pct(engine.labels[labelled]) if labelled.any() else None,
        agreement_pct=100 * float(agree.mean()),
        agreement_ci_pct=(100 * low, 100 * high),
        agreement_n=int(agree.sum()),
        agreement_chance_pct=_chance_pct(theirs.predicted),
        sqnr_db=None if nan_count else _sqnr_db(engine.logits, reference.logits),
        nan_count=nan_count,
        unreadable=tuple(sorted(left_out)),
        findings=tuple(_findings(engine.ids, ours, nan_count, left_out)),
        worst_classes=tuple(_worst_classes(engine, ours, theirs, labelled)),
        changed=tuple(_changed(engine, ours, theirs)),
    )


def require_comparable(engine: Predictions, reference: Predictions) -> None:
    """Raise `MeasurementError` that names the first difference in classes, preprocessing, images or labels."""
    again = "make the reference again on this data set with `edgecnn reference`"
    if not engine.ids or not reference.ids:
        raise MeasurementError("no images to compare", "name a data set with at least one readable image")
    if engine.logits.shape[1] != reference.logits.shape[1]:
        raise MeasurementError(
            f"the engine has {_outputs(engine)}, the reference {_outputs(reference)}",
            "compare an engine with the reference that it was made from",
        )
    if engine.threshold != reference.threshold:
        kinds = ["a probability" if p.threshold else "a logit" for p in (engine, reference)]
        raise MeasurementError(
            f"the engine gives {kinds[0]}, the reference {kinds[1]}",
            "`edgecnn import` takes the Sigmoid off a graph: import it, and make reference and engine from that",
        )
    if engine.preprocessing_sha256 != reference.preprocessing_sha256:
        raise MeasurementError(
            f"the engine was fed by preprocessing {engine.preprocessing_sha256[:12] or 'unknown'}, "
            f"the reference by {reference.preprocessing_sha256[:12] or 'unknown'}",
            again,
        )
    if engine.label_names and reference.label_names and engine.label_names != reference.label_names:
        pairs = zip(engine.label_names, reference.label_names, strict=False)
        k = next(
            (k for k, (a, b) in enumerate(pairs) if a != b), min(len(engine.label_names), len(reference.label_names))
        )
        names = [p.label_names[k] if k < len(p.label_names) else "absent" for p in (engine, reference)]
        raise MeasurementError(f"class {k} is {names[0]!r} here and {names[1]!r} in the reference", again)
    for k, (ours, theirs) in enumerate(zip(engine.ids, reference.ids, strict=False)):
        if ours != theirs:
            raise MeasurementError(f"image {k} is {ours!r} here and {theirs!r} in the reference", again)
    if len(engine.ids) != len(reference.ids):
        raise MeasurementError(f"{len(engine.ids)} images here, {len(reference.ids)} in the reference", again)
    if (differ := np.flatnonzero(engine.labels != reference.labels)).size:
        k = int(differ[0])
        raise MeasurementError(
            f"image {engine.ids[k]!r} has label {engine.labels[k]} here and {reference.labels[k]} in the reference",
            again,
        )


def _outputs(predictions: Predictions) -> str:
    outputs = predictions.logits.shape[1]
    return "one logit" if outputs == 1 else f"{outputs} classes"


def _chunks(n: int) -> Iterator[slice]:
    return (slice(k, k + CHUNK) for k in range(0, n, CHUNK))


def _scored(predictions: Predictions) -> _Scored:
    """Ties go to the lower class, for the first place and for the first five alike."""
    n = len(predictions.ids)
    predicted, rank = np.empty(n, np.int64), np.empty(n, np.int64)
    for part in _chunks(n):
        logits, labels = class_scores(predictions.logits[part], predictions.threshold), predictions.labels[part]
        finite = np.isfinite(logits).all(axis=1)
        predicted[part] = np.where(finite, logits.argmax(axis=1), -1)
        own = np.take_along_axis(logits, np.maximum(labels, 0)[:, None], axis=1)
        before = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
        rank[part] = np.where(finite & (labels >= 0), before.sum(axis=1), logits.shape[1])
    return _Scored(predicted, rank < 1, rank < 5)


def _paired(metric: str, ours: Bools, theirs: Bools) -> dict[str, Any]:
    """The fields of one accuracy metric; all None without labelled images."""
    n = len(ours)
    keys = (f"{metric}_pct", f"reference_{metric}_pct", f"{metric}_drop_pp", f"{metric}_drop_ci_pp")
    if n == 0:
        return dict.fromkeys((*keys, f"{metric}_lost", f"{metric}_gained"))
    lost, gained = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    low, high = drop_interval(lost, gained, n)
    values = (
        100 * float(ours.mean()),
        100 * float(theirs.mean()),
        100 * (lost - gained) / n,
        (100 * low, 100 * high),
    )
    return {**dict(zip(keys, values, strict=True)), f"{metric}_lost": lost, f"{metric}_gained": gained}


def _mcnemar(ours: Bools, theirs: Bools) -> float | None:
    return mcnemar_p(int((theirs & ~ours).sum()), int((ours & ~theirs).sum())) if len(ours) else None


def _chance_pct(truth: npt.NDArray[np.int64]) -> float:
    """How often the best answer that does not look at the image is right."""
    return 100 * float(np.bincount(truth).max()) / len(truth)


def _sqnr_db(ours: Array, theirs: Array) -> float | None:
    """Power of the reference's logits over the power of the difference, in dB; None when there is no difference."""
    signal = noise = 0.0
    for part in _chunks(len(ours)):
        ours64, theirs64 = ours[part].astype(np.float64), theirs[part].astype(np.float64)
        signal += float((theirs64**2).sum())
        noise += float(((ours64 - theirs64) ** 2).sum())
    return None if noise == 0 or signal == 0 else float(10 * np.log10(signal / noise))


def _findings(ids: tuple[str, ...], ours: _Scored, nan_count: int, left_out: set[str]) -> Iterator[str]:
    n = len(ids)
    if nan_count:
        first = ids[int(np.argmin(ours.predicted))]
        yield f"logits that are not finite (NaN or infinite) on {nan_count} of {n} images, the first is {first}"
    if n > 1 and ours.predicted[0] >= 0 and (ours.predicted == ours.predicted[0]).all():
        yield f"every one of the {n} predictions is class {ours.predicted[0]}"
    if left_out:
        yield f"{len(left_out)} unreadable images left out, the first is {min(left_out)}"


def _worst_classes(engine: Predictions, ours: _Scored, theirs: _Scored, labelled: Bools) -> list[dict[str, Any]]:
    """The classes that lose most top-1, worst first."""
    rows: list[dict[str, Any]] = []
    for label in np.unique(engine.labels[labelled]):
        members = engine.labels == label
        lost, gained = (int((a & ~b & members).sum()) for a, b in ((theirs.top1, ours.top1), (ours.top1, theirs.top1)))
        if lost > gained:
            n = int(members.sum())
            low, high = drop_interval(lost, gained, n)
            rows.append(
                {
                    "label": int(label),
                    "label_name": _label_name(engine, int(label)),
                    "n": n,
                    "top1_lost": lost,
                    "top1_gained": gained,
                    "top1_drop_pp": 100 * (lost - gained) / n,
                    "top1_drop_ci_pp": [100 * low, 100 * high],
                }
            )
    return sorted(rows, key=lambda r: (r["top1_gained"] - r["top1_lost"], -r["top1_drop_pp"]))[:WORST_CLASSES]


def _changed(engine: Predictions, ours: _Scored, theirs: _Scored) -> Iterator[dict[str, Any]]:
    """Every image on which the top-1 class is not the reference's."""
    for k in np.flatnonzero(ours.predicted != theirs.predicted):
        yield {
            "id": engine.ids[k],
            "label": int(engine.labels[k]),
            "reference": int(theirs.predicted[k]),
            "engine": int(ours.predicted[k]),
        }


def _label_name(predictions: Predictions, label: int) -> str:
    return predictions.label_names[label] if label < len(predictions.label_names) else str(label)
