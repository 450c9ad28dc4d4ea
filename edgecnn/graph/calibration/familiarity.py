"""Whether images are those of a network, by what it makes of them.

A trained network commits itself, and to different classes for different images: the mutual information between image
and predicted class is most of what so many images could tell. Noise, or pictures of another domain, it is unsure of and
takes for much the same; images of one class it takes for one. Its ranges, and what is fitted to them, are then not
those of its work. Where test images are given, the two sets of logits are held against each other (G. Székely, M.
Rizzo, "Energy statistics", 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEWEST_IMAGES, FEWEST_CLASSES = 16, 10
TOLD_MIN = 0.45  # of the mutual information that so many images can have
UNSURE, UNDECIDED = 0.3, 0.9  # mean entropy as a share of the largest: of other images; before training
DISTANCE_MAX = 0.1  # half an image's weight is added to it
LEAST_PROBABILITY = np.float32(1e-12)

Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    """What logits of `n` images over `classes` say: `told` is their mutual information as a share of log(min(n,
    classes)), `unsure` the mean entropy as a share of log(classes)."""

    n: int
    classes: int
    told: float
    unsure: float

    @property
    def unfamiliar(self) -> bool:
        """Whether the images are not the network's, or too alike to it. Never of a network that commits itself to
        nothing, as before its training, nor of so few images or classes that nothing can be said."""
        enough = self.n >= FEWEST_IMAGES and self.classes >= FEWEST_CLASSES
        return enough and self.unsure <= UNDECIDED and self.told < TOLD_MIN

    @property
    def reason(self) -> str:
        """Why, as part of a sentence; "" where they are the network's for all that can be said."""
        if not self.unfamiliar:
            return ""
        share = f"its predictions tell {100 * self.told:.0f} % of what {self.n} images of its own would"
        if self.unsure > UNSURE:
            return f"the images do not look like the network's: it is unsure of them, {share}"
        return f"the images are nearly all of one kind to the network: {share}"


def measure_told(logits: Logits) -> Told:
    """Of what a network gives, [N, classes]; what is not finite tells nothing."""
    rows = as_logits(logits[np.isfinite(logits).all(axis=1)]).astype(np.float64)
    n, classes = len(rows), logits.shape[1]
    if n < 2 or classes < 2:
        return Told(n, classes, 0.0, 1.0)
    shares = np.exp(rows - rows.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    each = float(_entropy(shares).mean())
    whole = float(_entropy(shares.mean(axis=0)))
    return Told(n, classes, max(0.0, whole - each) / math.log(min(n, classes)), each / math.log(classes))


def as_logits(outputs: Logits) -> Logits:
    """Logits [N, classes] where a network gives these or probabilities: the logarithms of probabilities are logits but
    for a constant of each row."""
    if outputs.size and outputs.min() >= 0 and np.allclose(outputs.sum(axis=1), 1, rtol=0, atol=1e-3):
        return np.asarray(np.log(np.maximum(outputs, LEAST_PROBABILITY)))
    return outputs


def _entropy(shares: Floats) -> Floats:
    return np.asarray(-(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=-1))


def logits_distance(one: Logits, other: Logits) -> float:
    """Energy distance of two samples [N, classes] as a share of twice the mean distance between them: about 0 for
    samples of the same images, at most 1."""
    one, other = as_logits(one), as_logits(other)
    between = _distances(one, other).mean()
    within = sum(float(_distances(x, x).sum()) / (len(x) * (len(x) - 1)) for x in (one, other))
    return float(1 - within / (2 * between)) if between > 0 else 0.0


def _distances(one: Logits, other: Logits) -> Floats:
    a, b = one.astype(np.float64), other.astype(np.float64)
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def are_apart(distance: float, images: int) -> bool:
    """Whether a `logits_distance` of so many calibration images is more than the draw of the images explains."""
    return distance > DISTANCE_MAX + 0.5 / images
