"""What stages and classes lost, counted from results alone: which images changed stands in every accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from edgecnn.recipe.schema import Recipe
from edgecnn.results.accuracy import Accuracy, ChangedImage
from edgecnn.results.engine import CPU_PROVIDER
from edgecnn.results.explanation import SAME_TIME_PCT, Change, ClassDrop, ImageChange, Stage, StageLoss
from edgecnn.results.report import Measurement
from edgecnn.statistics import drop_interval, drop_intervals, holm_rejects, mcnemar_p

STAGES: dict[str, Stage] = {"fp32": "export", "fp16": "fp16", "int8": "int8"}  # by the precision that it makes
LEVEL = 1 - SAME_TIME_PCT / 100
REFERENCE = "reference"


@dataclass(frozen=True)
class _Step:
    """What predicts after a stage; the first, without an accuracy, is the reference."""

    stage: Stage
    label: str
    accuracy: Accuracy | None


def stage_losses(
    measurement: Measurement, targets: Mapping[str, Sequence[Measurement]], recipe: Recipe
) -> tuple[tuple[StageLoss, ...], tuple[str, ...]]:
    """(what each stage up to an engine lost, why others were not compared).

    `targets` are the measurements of a run by target. Graphs that were run on a CPU stand between reference and engine;
    where a device's graphs were not, its own engines of other precisions do.
    """
    steps, missing = _steps(measurement, targets, recipe)
    losses = []
    before = steps[0]
    for after in steps[1:]:
        if why := _incomparable(before.accuracy, after.accuracy):
            missing.append(f"{before.label} -> {after.label}: {why}")
            continue
        losses.append(_stage_loss(before, after))
        before = after
    if measurement.accuracy and (serving := _serving_loss(steps[-1].label, measurement.accuracy)):
        losses.append(serving)
    told = holm_rejects([1.0 if loss.mcnemar_p is None else loss.mcnemar_p for loss in losses], LEVEL)
    return tuple(
        replace(loss, told=t and (loss.drop_pp or 0) > 0) for loss, t in zip(losses, told, strict=True)
    ), tuple(missing)


def largest_loss(losses: Sequence[StageLoss]) -> StageLoss | None:
    """The stage that lost most of those that can be told from none."""
    return max((loss for loss in losses if loss.told), key=lambda loss: loss.drop_pp or 0.0, default=None)


def _steps(
    m: Measurement, targets: Mapping[str, Sequence[Measurement]], recipe: Recipe
) -> tuple[list[_Step], list[str]]:
    precision, scheme = m.engine.precision_requested, m.engine.scheme
    on_cpu = next((rows for rows in targets.values() if any(r.engine.provider == CPU_PROVIDER for r in rows)), None)
    own = next(rows for rows in targets.values() if m in rows)
    peers = own if m.engine.provider == CPU_PROVIDER or on_cpu is None else on_cpu
    chain = ["fp32"] if precision != "fp32" else []
    if precision == "int8" and scheme != "ort-cpu" and recipe.quantize.around == "fp16":
        chain.append("fp16")
    wanted = [(p, "") for p in chain] + ([(precision, scheme)] if peers is not own else [])
    steps, missing = [_Step("export", REFERENCE, None)], list[str]()
    for wanted_precision, wanted_scheme in wanted:
        found = next(
            (
                r
                for r in peers
                if (r.engine.precision_requested, r.engine.scheme) == (wanted_precision, wanted_scheme) and r.accuracy
            ),
            None,
        )
        if found is None:
            missing.append(f"{wanted_precision}: not measured in this run")
        else:
            label = found.name if peers is own else f"{found.engine.target} {found.name}"
            steps.append(_Step(STAGES.get(wanted_precision, "engine"), label, found.accuracy))
    on_graph = peers is not own and steps[-1].stage == STAGES.get(precision)
    if m.engine.provider != CPU_PROVIDER and not on_graph:
        missing.append("engine: its graph was not run on a CPU, so the last stage holds what the engine lost too")
    label = m.name if peers is own else f"{m.engine.target} {m.name}"
    return [*steps, _Step("engine" if on_graph else STAGES.get(precision, "engine"), label, m.accuracy)], missing


def _incomparable(before: Accuracy | None, after: Accuracy | None) -> str:
    """Why two accuracies cannot be paired; "" where they can."""
    if after is None:
        return "its accuracy was not measured"
    if before is None:
        return ""
    if before.data != after.data or (before.n, before.n_labelled) != (after.n, after.n_labelled):
        return f"{before.data} (n = {before.n}) and {after.data} (n = {after.n}) are other images"
    if before.images_sha256 and after.images_sha256 and before.images_sha256 != after.images_sha256:
        return f"other images of {after.data}"
    ours, theirs = ({c.id: c.reference for c in a.changed} for a in (before, after))
    if any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys()):
        return "they were measured against different references"
    return ""


def _stage_loss(before: _Step, after: _Step) -> StageLoss:
    assert after.accuracy is not None
    first = {c.id: c for c in before.accuracy.changed} if before.accuracy else {}
    second = {c.id: c for c in after.accuracy.changed}
    changed = lost = gained = 0
    for name in first.keys() | second.keys():
        known = second.get(name) or first[name]
        was = first[name].engine if name in first else known.reference
        now = second[name].engine if name in second else known.reference
        changed += was != now
        if known.label >= 0 and was != now:
            lost, gained = lost + (was == known.label), gained + (now == known.label)
    n = after.accuracy.n_labelled
    if not n:
        return _loss(after.stage, before.label, after.label, 0, changed)
    return _loss(after.stage, before.label, after.label, n, changed, (lost, gained))


def _loss(
    stage: Stage, before: str, after: str, n: int, changed: int | None, counts: tuple[int, int] | None = None
) -> StageLoss:
    lost, gained = counts or (None, None)
    drop = interval = p = None
    if lost is not None and gained is not None:
        low, high = drop_interval(lost, gained, n)
        drop, interval, p = 100 * (lost - gained) / n, (100 * low, 100 * high), mcnemar_p(lost, gained)
    return StageLoss(
        stage=stage,
        before=before,
        after=after,
        n=n,
        changed=changed,
        lost=lost,
        gained=gained,
        drop_pp=drop,
        drop_ci_pp=interval,
        mcnemar_p=p,
    )


def _serving_loss(label: str, accuracy: Accuracy) -> StageLoss | None:
    served = accuracy.serving
    if served is None:
        return None
    counts = (
        None
        if served.serving_lost is None or served.serving_gained is None
        else (
            served.serving_lost,
            served.serving_gained,
        )
    )
    changed = round(served.serving_n * (1 - served.serving_agreement_pct / 100))
    after = f"{label}, {served.serving_geometry}"
    return _loss("serving", label, after, served.serving_n_labelled, changed, counts)


def class_drops(accuracy: Accuracy) -> tuple[int, tuple[ClassDrop, ...]]:
    """(how many classes have images, those that lost or gained one): the largest loss first. Each interval is
    Bonferroni's, so that all hold together with 95 %."""
    shares = {c.label: c for c in accuracy.class_top1 if c.n}
    lost = Counter(c.label for c in accuracy.changed if c.label == c.reference)
    gained = Counter(c.label for c in accuracy.changed if c.label == c.engine)
    moved = sorted(label for label in lost.keys() | gained.keys() if label in shares)
    if not moved:
        return len(shares), ()
    z = NormalDist().inv_cdf(1 - LEVEL / (2 * len(shares)))
    sizes = np.array([shares[label].n for label in moved], np.float64)
    lows, highs = drop_intervals([lost[label] for label in moved], [gained[label] for label in moved], sizes, z)
    rows = [
        ClassDrop(
            label=label,
            label_name=shares[label].label_name,
            n=shares[label].n,
            lost=lost[label],
            gained=gained[label],
            drop_pp=100 * (lost[label] - gained[label]) / shares[label].n,
            drop_ci_pp=(100 * float(low), 100 * float(high)),
            told=bool(low > 0),
        )
        for label, low, high in zip(moved, lows, highs, strict=True)
    ]
    return len(shares), tuple(sorted(rows, key=lambda r: (not r.told, r.gained - r.lost, -r.drop_pp)))


def image_changes(accuracy: Accuracy) -> tuple[ImageChange, ...]:
    """Every image that changed, by the names of its classes: those that were lost first."""
    names = {c.label: c.label_name for c in accuracy.class_top1}

    def named(label: int) -> str:
        return names.get(label, str(label)) if label >= 0 else "not finite"

    def row(c: ChangedImage) -> ImageChange:
        change: Change = (
            "lost" if c.label == c.reference else "gained" if c.label >= 0 and c.label == c.engine else "other"
        )
        label_name = named(c.label) if c.label >= 0 else ""
        return ImageChange(
            id=c.id, label_name=label_name, reference=named(c.reference), engine=named(c.engine), change=change
        )

    rank = {"lost": 0, "gained": 1, "other": 2}
    return tuple(sorted(map(row, accuracy.changed), key=lambda r: rank[r.change]))
