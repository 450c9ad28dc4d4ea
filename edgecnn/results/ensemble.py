"""What an ensemble is made of."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


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
    mean negative logarithm of the label's probability, by these weights, by equal ones, and of each member alone."""

    __pydantic_config__ = STRICT

    weights: tuple[float, ...]
    data: str
    n: int
    log_loss: float
    equal_log_loss: float
    member_log_loss: tuple[float, ...]
