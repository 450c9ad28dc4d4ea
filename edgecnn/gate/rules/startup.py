"""Rules on what an engine costs before its first answer. A simulated engine says nothing about the target's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edgecnn.gate.rules.rule import Rule, concerns_reduced, judge_exact
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check


def _concerns(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    return concerns_reduced(measurement, measurements) and not measurement.engine.simulated


def _rule(tolerance: str, key: str, label: str, unit: str, absent: str) -> Rule:
    """A rule on one figure of a start, by its name there."""

    def value_of(measurement: Measurement) -> float | None:
        value: float | None = getattr(measurement.startup, key, None)
        return value

    def judge(measurement: Measurement, rule: Rule, limit: float) -> Check:
        value = value_of(measurement)
        assert value is not None
        check = judge_exact(measurement, rule, limit, value, at_most=True)
        return dataclasses.replace(check, evidence=f"{check.evidence}, measured once")

    return Rule(tolerance, label, unit, lambda m: value_of(m) is not None, judge, _concerns, absent=absent)


RULES = (
    _rule(
        "device_memory_mb_max",
        "device_memory_mb",
        "device memory",
        "MB",
        "not measured: bench it on its GPU (a CPU engine has none, and others may have given memory back meanwhile)",
    ),
    _rule("load_s_max", "load_s", "load", "s", "not measured: bench it on the device"),
    _rule("first_query_ms_max", "first_query_ms", "first query", "ms", "not measured: bench it on the device"),
)
