"""How much each of several classifiers counts in their average, chosen on labelled images.

The weights that make the labels most likely under the averaged probabilities: a concave problem, which EM for the
proportions of a mixture climbs without a step size (Dempster, Laird and Rubin 1977, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgecnn.errors import MeasurementError
from edgecnn.measure.predict import Predictions
from edgecnn.results.ensemble import DIGITS, MemberWeights
from edgecnn.session import class_probabilities

FEWEST_IMAGES = 100  # that weights are chosen on
_STEPS, _STILL = 10_000, 1e-6
_LEAST = 1e-12  # a probability: one image alone decides nothing

Floats = npt.NDArray[np.float64]


def choose_member_weights(members: Sequence[Predictions], data: str) -> MemberWeights:
    """The weights of `members`, all run over the same images of `data`; raises `MeasurementError` where fewer than
    `FEWEST_IMAGES` of these have labels, or what a member gives is not finite."""
    labels = members[0].labels
    known = labels >= 0
    if (n := int(known.sum())) < FEWEST_IMAGES:
        raise MeasurementError(
            f"{data}: {n} labelled images, and weights are chosen on at least {FEWEST_IMAGES}",
            "name more validation images, or give the weights yourself",
        )
    rows = [class_probabilities(m.logits[known], m.threshold, m.output) for m in members]
    likely = np.stack([row[np.arange(n), labels[known]] for row in rows], axis=1)
    if not np.isfinite(likely).all():
        raise MeasurementError(f"{data}: logits that are not finite", "`edgecnn validate` says which member gives them")
    likely = np.maximum(likely, _LEAST)
    weights, equal = fit_mixture(likely), np.full(len(members), 1 / len(members))
    return MemberWeights(
        weights=tuple(round(float(w), 4) for w in weights),
        data=data,
        n=n,
        log_loss=_log_loss(likely, weights),
        equal_log_loss=_log_loss(likely, equal),
        member_log_loss=tuple(float(-np.log(one).mean()) for one in likely.T),
        images=tuple(sorted(digest[:DIGITS] for digest in members[0].sha256s)),
    )


def fit_mixture(likely: Floats) -> Floats:
    """The weights [K], which add up to 1, under which the mixture of `likely` [N, K], the probability that each member
    gives to the label of each image, is largest in the mean of its logarithm."""
    weights = np.full(likely.shape[1], 1 / likely.shape[1])
    for _ in range(_STEPS):
        shares = likely * weights
        moved: Floats = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(moved - weights).max() < _STILL:
            return moved
        weights = moved
    return weights


def _log_loss(likely: Floats, weights: Floats) -> float:
    return float(-np.log(likely @ weights).mean())
