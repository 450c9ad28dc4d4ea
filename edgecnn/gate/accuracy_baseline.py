"""Accuracy against what was accepted before, image by image: the last time, and the best time ever.

An engine that agrees with its reference says nothing of a reference that was trained worse; this does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from edgecnn.errors import MeasurementError
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.accuracy_baseline import AcceptedAccuracy, AccuracyBaseline, AccuracyBaselines, BaselineDrop
from edgecnn.results.correctness import Bools, unpack_bits
from edgecnn.results.engine import EngineInfo
from edgecnn.results.report import Measurement
from edgecnn.statistics import difference_interval, drop_interval, wilson_interval

UNKNOWN = "unknown"
ANEW = "restore it from version control; or remove it, and record anew with `edgecnn gate --record`"

Files = dict[tuple[str, str], AccuracyBaselines]  # by backend and precision


def file_key(engine: EngineInfo) -> tuple[str, str]:
    """Backend and precision: which file an engine's baseline is in. Accuracies do not depend on the device."""
    return engine.backend or UNKNOWN, engine.precision_requested or engine.precision_obtained or UNKNOWN


def with_baseline_drops(measurements: Sequence[Measurement], files: Files) -> tuple[Measurement, ...]:
    """Each engine with what it lost against its baselines, where it has any.

    Raises `MeasurementError` for a baseline of another test set, `ArtifactError` for damaged bits.
    """
    return tuple(replace(m, baseline_drops=tuple(_drops(m, files))) for m in measurements)


def _drops(m: Measurement, files: Files) -> Iterator[BaselineDrop]:
    baseline, accuracy = _baseline_of(m.engine, files), m.accuracy
    if baseline is None or accuracy is None or _right(m.name, accuracy) is None:
        return
    where = "-".join(file_key(m.engine)) + ".json"
    yield _drop(m.name, accuracy, baseline.last, "last", where)
    if baseline.best != baseline.last:
        yield _drop(m.name, accuracy, baseline.best, "best", where)


def _baseline_of(engine: EngineInfo, files: Files) -> AccuracyBaseline | None:
    file = files.get(file_key(engine))
    own = (engine.provider, engine.scheme)
    return next((b for b in file.engines if (b.provider, b.scheme) == own), None) if file else None


def _drop(
    name: str, now: Accuracy, before: AcceptedAccuracy, which: Literal["last", "best"], where: str
) -> BaselineDrop:
    _require_comparable(name, now, before, where)
    right = _right(name, now)
    assert right is not None
    n, lost, gained = before.n_labelled, None, None
    was = unpack_bits(before.top1_bits, n, before.top1_n, f"{where}: the {which} baseline of {name}", ANEW)
    paired = now.images_sha256 == before.images_sha256
    if paired:
        if len(right) != n:
            raise MeasurementError(f"{where}: {n} images, this run has the same ones and {len(right)}", ANEW)
        lost, gained = int((was & ~right).sum()), int((right & ~was).sum())
        drop, ci = (lost - gained) / n, drop_interval(lost, gained, n)
    else:
        drop = before.top1_n / n - float(right.mean())
        ci = difference_interval(before.top1_n, n, int(right.sum()), len(right))
    return BaselineDrop(
        baseline=which,
        top1_pct=before.top1_pct,
        agreement_pct=before.agreement_pct,
        n=n,
        top1_n=before.top1_n,
        paired=paired,
        lost=lost,
        gained=gained,
        drop_pp=100 * drop,
        drop_ci_pp=(100 * ci[0], 100 * ci[1]),
    )


def _right(name: str, accuracy: Accuracy) -> Bools | None:
    """Which labelled images the engine has right; None without any, or where an earlier version did not keep them.
    Raises `ArtifactError` where the bits are not those of the figures."""
    if accuracy.top1_n is None or not accuracy.n_labelled:
        return None
    where, again = f"{name}.accuracy.json", "measure again: `edgecnn run RECIPE`, or `edgecnn validate`"
    return unpack_bits(accuracy.top1_bits, accuracy.n_labelled, accuracy.top1_n, where, again)


def _require_comparable(name: str, now: Accuracy, before: AcceptedAccuracy, where: str) -> None:
    """Other images of the same test set are another sample; another test set is another question."""
    if now.images_sha256 == before.images_sha256:
        return
    for fact, then, here in (("data", before.data, now.data), ("classes", before.classes, now.classes)):
        if then != here:
            raise MeasurementError(
                f"{where}: the baseline of {name} has {fact} = {then}, this run has {here}",
                "measure on the same test set; or remove the baseline, and record anew with `edgecnn gate --record`",
            )


def record_accuracies(measurements: Sequence[Measurement], files: Files) -> Files:
    """The files to be written: this run's accuracies are the last ones, and the best ones where none was better.

    What `files` holds of engines that this run has not stays. Raises `MeasurementError` for two engines of one kind,
    and for another test set than that of a baseline which is there.
    """
    made: Files = {}
    seen: dict[tuple[str, ...], str] = {}
    for m in measurements:
        now, key = _accepted(m), file_key(m.engine)
        if now is None or m.accuracy is None:
            continue
        kind = (*key, m.engine.provider, m.engine.scheme)
        if kind in seen:
            raise MeasurementError(
                f"{seen[kind]} and {m.name} are both {' '.join(k for k in kind if k)}: one baseline is kept of both",
                "remove the accuracy of one of them from the run's folder",
            )
        seen[kind] = m.name
        before = _baseline_of(m.engine, files)
        if before is not None:
            for old in (before.last, before.best):
                _require_comparable(m.name, m.accuracy, old, "-".join(key) + ".json")
        best = now if before is None or _surely_right(now) >= _surely_right(before.best) else before.best
        own = AccuracyBaseline(provider=m.engine.provider, scheme=m.engine.scheme, last=now, best=best)
        file = made.get(key) or files.get(key) or AccuracyBaselines(backend=key[0], precision=key[1], engines=())
        others = [b for b in file.engines if (b.provider, b.scheme) != (own.provider, own.scheme)]
        ordered = sorted([*others, own], key=lambda b: (b.provider, b.scheme))
        made[key] = replace(file, engines=tuple(ordered))
    return made


def _surely_right(accepted: AcceptedAccuracy) -> float:
    """What the accuracies of test sets are ordered by, the lower end of their intervals: ten images that are all right
    are not better than a thousand of which 98 % are."""
    return wilson_interval(accepted.top1_n, accepted.n_labelled)[0]


def _accepted(m: Measurement) -> AcceptedAccuracy | None:
    a = m.accuracy
    if a is None or _right(m.name, a) is None or a.top1_n is None:
        return None
    return AcceptedAccuracy(
        data=a.data,
        images_sha256=a.images_sha256,
        n_labelled=a.n_labelled,
        classes=a.classes,
        agreement_pct=a.agreement_pct,
        top1_n=a.top1_n,
        top1_bits=a.top1_bits,
    )
