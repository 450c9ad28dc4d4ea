"""What moved between a reference and a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT
from edgecnn.results.accuracy import Interval
from edgecnn.results.monitor import UncertainImage


@dataclass(frozen=True, kw_only=True)
class StatisticShift:
    """One statistic in both: on how many values, how many independent ones they are worth, how far they lie apart
    (0 to 1: Kolmogorov and Smirnov's distance; of classes the total variation), from which distance on so many are told
    apart, and the p-value, which does not know of the other statistics; `moved` does. Medians are None of classes."""

    __pydantic_config__ = STRICT

    name: str
    n_reference: int
    n_log: int
    independent_reference: int
    independent_log: int
    distance: float
    resolvable_distance: float
    p: float
    moved: bool
    median_reference: float | None = None
    median_log: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassShift:
    """A class whose share moved, in per cent, with the 95 % interval of the difference, log minus reference."""

    __pydantic_config__ = STRICT

    label: int
    label_name: str
    reference_pct: float
    log_pct: float
    difference_pp: float
    difference_ci_pp: Interval


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What moved from a reference to a log, at a level for all statistics together."""

    __pydantic_config__ = STRICT

    reference: str
    log: str
    n_reference: int
    n_log: int
    level: float
    verdict: Literal["drift", "no drift", "too few"]
    moved: tuple[str, ...]  # the names of the statistics that moved
    statistics: tuple[StatisticShift, ...]
    classes: tuple[ClassShift, ...]
    least_certain: tuple[UncertainImage, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """As that of a gate: 0 nothing moved, 1 something did, 3 too few images to say."""
        return {"no drift": 0, "drift": 1, "too few": 3}[self.verdict]
