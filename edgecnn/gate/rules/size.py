"""Rules on the engine's file."""

from __future__ import annotations

from edgecnn.gate.rules.rule import Rule, judge_exact
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check


def _size(measurement: Measurement) -> float | None:
    return measurement.facts.size_mb if measurement.facts else None


def _judge_size(measurement: Measurement, rule: Rule, limit: float) -> Check:
    value = _size(measurement)
    assert value is not None
    return judge_exact(measurement, rule, limit, value, at_most=True)


RULES = (Rule("size_mb_max", "size", "MB", lambda m: _size(m) is not None, _judge_size),)
