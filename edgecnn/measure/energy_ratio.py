"""The energy of one engine's queries over that of another's, from runs in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecnn.errors import MeasurementError
from edgecnn.results.energy import Energy


@dataclass(frozen=True)
class EnergyRatio:
    """Joules per inference above idle over those of the other engine, which are `against_joules`; `ci` (95 %) holds the
    ratio of each pair of runs."""

    ratio: float
    ci: tuple[float, float]
    against_joules: float
    power_sensor: str


def energy_ratio(ours: Sequence[Energy], theirs: Sequence[Energy]) -> EnergyRatio:
    """Of pairs of runs, one of each engine beside the other in time.

    The interval of a pair reaches from the lower end of the one over the upper end of the other to the contrary, and
    that of all spans those of the pairs: what changes slowly, a temperature or other work, moves from pair to pair.
    Raises `MeasurementError` for a run whose energy cannot be told from the idle power.
    """
    low, high = zip(*(_interval(a, b) for a, b in zip(ours, theirs, strict=True)), strict=True)
    mean, against = (sum(one.joules_per_inference for one in runs) / len(runs) for runs in (ours, theirs))
    return EnergyRatio(mean / against, (min(low), max(high)), against, theirs[0].sensor_with_rails)


def _interval(ours: Energy, theirs: Energy) -> tuple[float, float]:
    (our_low, our_high), (low, high) = _resolved(ours), _resolved(theirs)
    return our_low / high, our_high / low


def _resolved(found: Energy) -> tuple[float, float]:
    interval = found.joules_per_inference_ci
    if interval is None or interval[0] <= 0:
        raise MeasurementError(
            f"the energy of a query cannot be told from the idle power: {found.in_words}",
            "stop other work on the machine, or take a larger --batch; the same command then goes on",
        )
    return interval
