"""What an ensemble is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgecnn.records import STRICT

ENSEMBLE_FACTS = ("ensemble", "member_weights")  # of a sidecar
DIGITS = 12  # of a sha256: enough to tell images apart


@dataclass(frozen=True)
class EnsembleMember:
    """One of the networks: its name, the sha256 of its graph, and how much its probabilities count."""

    __pydantic_config__ = STRICT

    name: str
    sha256: str
    weight: float


@dataclass(frozen=True)
class MemberWeights:
    """Weights in the order of the members, chosen on `n` labelled images of `data`, and what that brought there: the
    mean negative logarithm of the label's probability, by these weights, by equal ones, and of each member alone.
    `images` are the first digits of the images' sha256."""

    __pydantic_config__ = STRICT

    weights: tuple[float, ...]
    data: str
    n: int
    log_loss: float
    equal_log_loss: float
    member_log_loss: tuple[float, ...]
    images: tuple[str, ...]

    def count_used(self, sha256s: Iterable[str]) -> int:
        """How many of these images the weights were chosen on."""
        known = set(self.images)
        return sum(digest[:DIGITS] in known for digest in sha256s)
