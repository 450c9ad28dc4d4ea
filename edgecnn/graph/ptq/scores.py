"""How far the logits of quantized graphs are from the float graph's, image by image; and which graph to take.

A candidate that was fitted to images is taken only where it beats a simpler one by more than the images it is judged on
leave open: on few of them, the best of several is often the luckiest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NOTHING_LEFT_DB = -300.0  # of logits that are not finite: never taken, and still JSON
FINEST = 1e-30

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of each image [N] the power of its logits and of their error, and whether the predicted class is the same."""

    signal: Floats
    noise: Floats
    agrees: npt.NDArray[np.bool_]

    @staticmethod
    def between(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> Scores:
        """Of logits [N, classes]; an image whose logits are not all finite has infinite noise."""
        exact = expected.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            noise = np.square(exact - found).sum(axis=1)
        noise = np.where(np.isfinite(found).all(axis=1), noise, np.inf)
        agrees = (expected.argmax(axis=1) == found.argmax(axis=1)) & np.isfinite(noise)
        return Scores(np.square(exact).sum(axis=1), noise, agrees)

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Of the images of all parts, in their order."""
        signal, noise, agrees = zip(*[(p.signal, p.noise, p.agrees) for p in parts], strict=True)
        return Scores(np.concatenate(signal), np.concatenate(noise), np.concatenate(agrees))

    @property
    def sqnr_db(self) -> float:
        """Signal to noise over all images."""
        noise = float(self.noise.sum())
        if not np.isfinite(noise):
            return NOTHING_LEFT_DB
        return 10 * float(np.log10(max(float(self.signal.sum()), FINEST) / max(noise, FINEST)))

    @property
    def agreement_pct(self) -> float:
        """Share of equal predictions."""
        return 100 * float(self.agrees.mean())

    def beats(self, other: Scores) -> bool:
        """Whether its noise is less over all images, and in the mean of its logarithm by more than the standard error
        of the paired differences."""
        if self.sqnr_db <= other.sqnr_db:
            return False
        if other.sqnr_db == NOTHING_LEFT_DB:
            return True
        won = np.log(np.maximum(other.noise, FINEST)) - np.log(np.maximum(self.noise, FINEST))
        if len(won) < 2:
            return False
        error = float(won.std(ddof=1)) / len(won) ** 0.5
        return bool(won.mean() > error)


def choose_best(scores: Sequence[Scores]) -> int:
    """Which of several to take: each must beat the one before that would be taken."""
    best = 0
    for k in range(1, len(scores)):
        if scores[k].beats(scores[best]):
            best = k
    return best
