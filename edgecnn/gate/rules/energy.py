"""The rule on the energy of a query. A simulated engine's says nothing about the target's."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.gate.rules.rule import Rule, concerns_reduced, outcome_below
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check


def _concerns(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    return concerns_reduced(measurement, measurements) and not measurement.engine.simulated


def _judge(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = measurement.energy
    assert found is not None
    value, interval = found.joules_per_inference, found.joules_per_inference_ci
    what = f"{value:.4g} J per inference above {found.idle_power_w:.2f} W idle, {' + '.join(found.power_rails)}"
    if interval is None:
        why = f"{what}: a run of one block has no interval; a longer --duration gives one"
        return rule.check(measurement, limit, "INCONCLUSIVE", why, value)
    outcome = outcome_below(interval, limit)
    evidence = f"{what}, 95 % interval [{interval[0]:.4g}, {interval[1]:.4g}] of {found.energy_blocks} blocks"
    if outcome == "INCONCLUSIVE":
        evidence += "; a longer --duration narrows it"
    return rule.check(measurement, limit, outcome, evidence, value, interval)


RULES = (
    Rule(
        "joules_per_inference_max",
        "energy",
        "J",
        lambda m: m.energy is not None,
        _judge,
        _concerns,
        absent="not measured: bench it on a Jetson, whose rails tell it, or on a GPU that NVIDIA's NVML reads",
        needs_kernels=True,
    ),
)
