"""Accuracy of an engine against its reference, paired on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgecnn.errors import MeasurementError
from edgecnn.measure.decision import measure_operating_point
from edgecnn.measure.predict import Predictions, require_same_images
from edgecnn.recipe.schema import DecisionSettings
from edgecnn.results.accuracy import Accuracy, ChangedImage, ClassLoss, ClassShare, Paired
from edgecnn.results.correctness import images_digest, pack_bits
from edgecnn.session import Array, class_scores
from edgecnn.statistics import drop_interval, guess_p, mcnemar_p, wilson_interval

Bools = npt.NDArray[np.bool_]
WORST_CLASSES = 10
ARGMAX = DecisionSettings()  # the most probable class is decided, however probable it is
CHUNK = 4096  # images whose logits are looked at together


@dataclass(frozen=True)
class _Scored:
    """Per image: predicted class (-1 where the logits are not finite), label among the first 1 and 5."""

    predicted: npt.NDArray[np.int64]
    top1: Bools
    top5: Bools


def measure_accuracy(
    name: str, engine: Predictions, reference: Predictions, *, decision: DecisionSettings = ARGMAX
) -> Accuracy:
    """Compare predictions on the same images; raises `MeasurementError` that names the first difference where
    preprocessing, labels, images or classes are not the same, and `RecipeError` for a `decision` that does not fit
    the classes."""
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
    logits = engine.output == reference.output == "logits"
    top1 = _paired(ours.top1[labelled], theirs.top1[labelled])
    top5 = _paired(ours.top5[labelled & (classes > 5)], theirs.top5[labelled & (classes > 5)])
    found = Accuracy(
        name=name,
        task=engine.task,
        output=engine.output,
        data=engine.dataset,
        n=n,
        n_labelled=int(labelled.sum()),
        classes=classes,
        top1_pct=top1.pct,
        top5_pct=top5.pct,
        reference_top1_pct=top1.reference_pct,
        reference_top5_pct=top5.reference_pct,
        top1_drop_pp=top1.drop_pp,
        top1_drop_ci_pp=top1.drop_ci_pp,
        top1_lost=top1.lost,
        top1_gained=top1.gained,
        top5_drop_pp=top5.drop_pp,
        top5_drop_ci_pp=top5.drop_ci_pp,
        top5_lost=top5.lost,
        top5_gained=top5.gained,
        mcnemar_p=_mcnemar(ours.top1[labelled], theirs.top1[labelled]),
        top1_guess_p=guess_p(engine.labels[labelled], ours.predicted[labelled]) if labelled.any() else None,
        reference_top1_guess_p=guess_p(engine.labels[labelled], theirs.predicted[labelled]) if labelled.any() else None,
        agreement_pct=100 * float(agree.mean()),
        agreement_ci_pct=(100 * low, 100 * high),
        agreement_n=int(agree.sum()),
        agreement_guess_p=guess_p(theirs.predicted, ours.predicted),
        copy_guess_p=guess_p(theirs.predicted, theirs.predicted),
        sqnr_db=None if nan_count or not logits else _sqnr_db(engine.logits, reference.logits),
        nan_count=nan_count,
        unreadable=tuple(sorted(left_out)),
        findings=tuple(_findings(engine.ids, ours, nan_count, left_out)),
        worst_classes=tuple(_worst_classes(engine, ours, theirs, labelled)),
        changed=tuple(_changed(engine, ours, theirs)),
    )
    return measure_operating_point(_with_counts(found, engine, ours, labelled), engine, reference, decision)


def _with_counts(accuracy: Accuracy, engine: Predictions, ours: _Scored, labelled: Bools) -> Accuracy:
    """`accuracy` with what is right: in all, of each class, and image by image in the order of their ids."""
    known = sorted(np.flatnonzero(labelled).tolist(), key=lambda k: engine.ids[k])
    if not known:
        return accuracy
    labels, right = engine.labels[known], ours.top1[known]
    hashes = engine.sha256s or ("",) * len(engine.ids)
    images = [(engine.ids[k], hashes[k], _label_name(engine, int(engine.labels[k]))) for k in known]
    n, top1_n = (np.bincount(labels[chosen], minlength=accuracy.classes) for chosen in (labels >= 0, right))
    return replace(
        accuracy,
        top1_n=int(right.sum()),
        top5_n=int(ours.top5[known].sum()) if accuracy.top5_pct is not None else None,
        images_sha256=images_digest(images),
        top1_bits=pack_bits(right),
        class_top1=tuple(ClassShare(k, _label_name(engine, k), int(n[k]), int(top1_n[k])) for k in range(len(n))),
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
    if engine.output == reference.output and engine.threshold != reference.threshold:
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
    if reference.sha256s:
        require_same_images(engine.ids, engine.sha256s, dict(zip(reference.ids, reference.sha256s, strict=True)))
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


def _paired(ours: Bools, theirs: Bools) -> Paired:
    """One accuracy metric on the same images; all None without labelled ones."""
    n = len(ours)
    if n == 0:
        return Paired(None, None, None, None, None, None)
    lost, gained = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    low, high = drop_interval(lost, gained, n)
    return Paired(
        pct=100 * float(ours.mean()),
        reference_pct=100 * float(theirs.mean()),
        drop_pp=100 * (lost - gained) / n,
        drop_ci_pp=(100 * low, 100 * high),
        lost=lost,
        gained=gained,
    )


def _mcnemar(ours: Bools, theirs: Bools) -> float | None:
    return mcnemar_p(int((theirs & ~ours).sum()), int((ours & ~theirs).sum())) if len(ours) else None


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


def _worst_classes(engine: Predictions, ours: _Scored, theirs: _Scored, labelled: Bools) -> list[ClassLoss]:
    """The classes that lose most top-1, worst first."""
    rows: list[ClassLoss] = []
    for label in np.unique(engine.labels[labelled]):
        members = engine.labels == label
        lost, gained = (int((a & ~b & members).sum()) for a, b in ((theirs.top1, ours.top1), (ours.top1, theirs.top1)))
        if lost > gained:
            n = int(members.sum())
            low, high = drop_interval(lost, gained, n)
            rows.append(
                ClassLoss(
                    label=int(label),
                    label_name=_label_name(engine, int(label)),
                    n=n,
                    top1_lost=lost,
                    top1_gained=gained,
                    top1_drop_pp=100 * (lost - gained) / n,
                    top1_drop_ci_pp=(100 * low, 100 * high),
                )
            )
    return sorted(rows, key=lambda r: (r.top1_gained - r.top1_lost, -r.top1_drop_pp))[:WORST_CLASSES]


def _changed(engine: Predictions, ours: _Scored, theirs: _Scored) -> Iterator[ChangedImage]:
    """Every image on which the top-1 class is not the reference's."""
    for k in np.flatnonzero(ours.predicted != theirs.predicted):
        yield ChangedImage(
            id=engine.ids[k],
            label=int(engine.labels[k]),
            reference=int(theirs.predicted[k]),
            engine=int(ours.predicted[k]),
        )


def _label_name(predictions: Predictions, label: int) -> str:
    return predictions.label_names[label] if label < len(predictions.label_names) else str(label)
