"""How an engine's embedding verifies beside its reference's, paired on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.contract import EMBEDDING
from edgecnn.data.dataset import Labels
from edgecnn.data.pairs import Floats, Pairs, Rates, SortedPairs, squared_distances
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.measure.features import Tally
from edgecnn.measure.predict import Predictions
from edgecnn.records import record_from_mapping
from edgecnn.results.features import FeatureAgreement
from edgecnn.results.verification import ChosenThreshold, Interval, Verification
from edgecnn.statistics import drop_interval, wilson_interval

FARS = (0.01, 0.001)
FALSE_ACCEPTS = 100  # expected ones, for a rate to be told
IDENTITIES = 20  # for an interval that speaks of other classes too
REPLICATES = 500
Resampled = Literal["identities", "images"]


def threshold_of(path: Path | str, sidecar: Sidecar) -> ChosenThreshold:
    """What an embedding network is judged by; raises `ArtifactError` where `path` is none, and `MeasurementError` where
    no validation pairs have chosen a threshold."""
    if not sidecar.embeds:
        raise ArtifactError(
            f"{path}: no embedding network, by its sidecar", "train one: `train.loss` in a recipe, `edgecnn train`"
        )
    if "verification" not in sidecar.facts:
        raise MeasurementError(
            f"{path}: no validation pairs have chosen a threshold for it: its training is not finished",
            "finish it (`edgecnn train --resume`), and make this again from model.safetensors",
        )
    again = "make it again from the checkpoint"
    return record_from_mapping(ChosenThreshold, sidecar.facts["verification"], f"{path}: its threshold", again)


def measure_verification(
    name: str, engine: Predictions, reference: Predictions, pairs: Pairs, chosen: ChosenThreshold
) -> Verification:
    """Compare the embeddings, [N, D] as `logits`, of the same images, of which these are the `pairs`.

    Raises `MeasurementError` for a reference that is not finite.
    """
    ours, theirs = squared_distances(engine.logits, pairs), squared_distances(reference.logits, pairs)
    if np.isnan(theirs).any():
        raise MeasurementError(
            "the reference has embeddings that are not finite",
            "mend the reference first: nothing can be measured against it",
        )
    ours = np.where(np.isnan(ours), np.where(pairs.same, np.inf, -1.0), ours)  # wrong at every threshold
    identities, n = len(np.unique(engine.labels)), len(engine.ids)
    resampled: Resampled = "identities" if identities >= IDENTITIES else "images"
    told = [far for far in FARS if far * int((~pairs.same).sum()) >= FALSE_ACCEPTS]
    sample = _Sample(pairs, ours, theirs, chosen.threshold, told)
    whole, draws = sample.measure(None), [*sample.resample(engine.labels, resampled)]
    changed = (ours <= chosen.threshold) != (theirs <= chosen.threshold)
    none_seen = wilson_interval(0, n)[1]
    alike, (tar, fine) = _alike(engine, reference), (_tar(far, told, whole, draws, none_seen) for far in FARS)
    flips = _no_narrower(_ends(draws, lambda d: 100 * d.changed), 100 * whole.changed, none_seen)
    found = Verification(
        name=name,
        verification_data=engine.dataset,
        verification_n=n,
        identities=identities,
        same_pairs=int(pairs.same.sum()),
        different_pairs=int((~pairs.same).sum()),
        resampled=resampled,
        verification_threshold=chosen.threshold,
        verification_pct=100 * whole.ours.accuracy,
        verification_ci_pct=_rate_ends(draws, lambda d: 100 * d.ours.accuracy, 100, none_seen),
        reference_verification_pct=100 * whole.theirs.accuracy,
        verification_drop_pp=100 * whole.drop,
        verification_drop_ci_pp=_no_narrower(
            _ends(draws, lambda d: 100 * d.drop), 100 * whole.drop, drop_interval(0, 0, n)[1]
        ),
        decisions_changed_n=int(changed.sum()),
        decisions_changed_pct=100 * float(changed.mean()),
        decisions_changed_ci_pct=(max(0.0, flips[0]), min(100.0, flips[1])),
        roc_auc=whole.ours.auc,
        roc_auc_ci=_rate_ends(draws, lambda d: d.ours.auc, 1, none_seen),
        reference_roc_auc=whole.theirs.auc,
        reference_roc_auc_ci=_rate_ends(draws, lambda d: d.theirs.auc, 1, none_seen),
        tar_at_far_1e2_pct=tar[0],
        tar_at_far_1e2_ci_pct=tar[1],
        reference_tar_at_far_1e2_pct=tar[2],
        tar_at_far_1e3_pct=fine[0],
        tar_at_far_1e3_ci_pct=fine[1],
        reference_tar_at_far_1e3_pct=fine[2],
        embedding_cosine_mean=alike.cosine_mean,
        embedding_cosine_least=alike.cosine_min,
        embedding_worst_image=alike.worst_image,
        embedding_sqnr_db=alike.sqnr_db,
        verification_nan_count=alike.nan_count,
        verification_unreadable=tuple(sorted({*engine.unreadable, *reference.unreadable})),
        verification_findings=(),
    )
    return _with_findings(found, engine)


@dataclass(frozen=True)
class _Drawn:
    """One weighting of the pairs: rates of engine and reference, and the share of decisions that differ, 0 to 1."""

    ours: Rates
    theirs: Rates
    changed: float

    @property
    def drop(self) -> float:
        return self.theirs.accuracy - self.ours.accuracy


class _Sample:
    """The distances of all pairs, engine's and reference's, measured with any weights."""

    def __init__(self, pairs: Pairs, ours: Floats, theirs: Floats, threshold: float, fars: Sequence[float]) -> None:
        self.pairs, self.fars = pairs, tuple(fars)
        same, different = np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same)
        self.sorted = [SortedPairs(distances, same, different, threshold) for distances in (ours, theirs)]
        self.changed = np.flatnonzero((ours <= threshold) != (theirs <= threshold))

    def measure(self, weights: Floats | None) -> _Drawn:
        """With a weight for each pair; None: each counts once."""
        ours, theirs = (one.measure(weights, self.fars) for one in self.sorted)
        total = float(len(self.pairs)) if weights is None else float(weights.sum())
        changed = float(len(self.changed)) if weights is None else float(weights[self.changed].sum())
        return _Drawn(ours, theirs, changed / total)

    def resample(self, labels: Labels, resampled: Resampled) -> Iterator[_Drawn]:
        """`REPLICATES` draws with replacement: of identities, whose pairs count as often as they were drawn, or of the
        images of each class."""
        random = np.random.default_rng(0)
        first, second, same = self.pairs.first, self.pairs.second, self.pairs.same
        classes, of_image = np.unique(labels, return_inverse=True)
        members = [np.flatnonzero(of_image == k) for k in range(len(classes))]
        for _ in range(REPLICATES):
            if resampled == "identities":
                counts = random.multinomial(len(classes), np.full(len(classes), 1 / len(classes)))[of_image]
            else:
                counts = np.zeros(len(labels), np.int64)
                for places in members:
                    counts[places] = random.multinomial(len(places), np.full(len(places), 1 / len(places)))
            weights = (counts[first] * counts[second]).astype(np.float64)
            if resampled == "identities":  # a class that was drawn twice has its own pairs twice, not four times
                weights[same] = counts[first[same]]
            if weights[same].any() and weights[~same].any():
                yield self.measure(weights)


def _ends(draws: Sequence[_Drawn], value: Callable[[_Drawn], float]) -> Interval:
    low, high = np.quantile([value(drawn) for drawn in draws], (0.025, 0.975))
    return float(low), float(high)


def _rate_ends(draws: Sequence[_Drawn], value: Callable[[_Drawn], float], most: float, none_seen: float) -> Interval:
    """Of a rate from 0 to `most`; where every draw says the same, as far as `none_seen`, a share, leaves open: pairs
    none of which is wrong are drawn without a wrong one."""
    low, high = _ends(draws, value)
    if high - low > 1e-9:
        return low, high
    return max(0.0, low - most * none_seen), min(most, high + most * none_seen)


def _no_narrower(interval: Interval, value: float, none_seen: float) -> Interval:
    """An interval about `value`, on each side at least as wide as the half-width `none_seen`, a share, of what holds
    where none of so many images shows anything: draws of images among which no decision changed would all say 0."""
    return min(interval[0], value - 100 * none_seen), max(interval[1], value + 100 * none_seen)


def _tar(
    far: float, told: Sequence[float], whole: _Drawn, draws: Sequence[_Drawn], none_seen: float
) -> tuple[float | None, Interval | None, float | None]:
    """True accepts at a rate of false ones, in per cent: value, interval and the reference's; None where it cannot be
    told."""
    if far not in told:
        return None, None, None
    k = told.index(far)
    interval = _rate_ends(draws, lambda d: 100 * d.ours.tar[k], 100, none_seen)
    return 100 * whole.ours.tar[k], interval, 100 * whole.theirs.tar[k]


def _alike(engine: Predictions, reference: Predictions) -> FeatureAgreement:
    tally = Tally()
    tally.add(engine.ids, engine.logits, reference.logits)
    return tally.result(EMBEDDING, engine.logits.shape[1:])


def _with_findings(found: Verification, engine: Predictions) -> Verification:
    said = []
    if found.resampled == "images":
        names = [engine.label_names[k] for k in np.unique(engine.labels)] if engine.label_names else []
        of = f" ({', '.join(names)})" if names else ""
        said.append(
            f"{found.identities} unseen classes: the intervals are over images and hold for these classes alone{of}; "
            f"over classes they need {IDENTITIES}"
        )
    for far, key in zip(FARS, ("1e2", "1e3"), strict=True):
        if getattr(found, f"tar_at_far_{key}_pct") is None:
            said.append(
                f"true accepts at a rate of {far:g} false ones are not told: of {found.different_pairs} pairs of "
                f"different classes {far * found.different_pairs:.0f} false accepts are expected, {FALSE_ACCEPTS} are "
                "needed"
            )
    if count := found.verification_nan_count:
        said.append(f"embeddings that are not finite (NaN or infinite) on {count} of {found.verification_n} images")
    if left := found.verification_unreadable:
        said.append(f"{len(left)} unreadable images left out, the first is {left[0]}")
    return replace(found, verification_findings=tuple(said))
