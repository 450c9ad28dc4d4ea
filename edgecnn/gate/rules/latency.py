"""Rules on latency. The time of a simulated engine says nothing about the target's, and is not judged."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.gate.rules.rule import Rule, concerns_reduced, outcome_below
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from edgecnn.statistics import samples_for_percentile


def _concerns(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    return concerns_reduced(measurement, measurements) and not measurement.engine.simulated


def _owes_ratio(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    """What the others are compared with has no ratio to itself."""
    return measurement.name not in {m.ratio.latency_reference for m in measurements if m.ratio}


def _concerns_int8(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    return measurement.engine.precision_requested == "int8" and not measurement.engine.simulated


def _has_fp16_ratio(measurement: Measurement) -> bool:
    return measurement.ratio is not None and measurement.ratio.int8_vs_fp16_ratio_ci is not None


def _judge_fp16_ratio(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = measurement.ratio
    assert found is not None
    assert found.int8_vs_fp16_ratio is not None
    assert found.int8_vs_fp16_ratio_ci is not None
    return _judge_interval(
        measurement, rule, limit, found.int8_vs_fp16_ratio, found.int8_vs_fp16_ratio_ci, str(found.fp16_reference)
    )


def _judge_ratio(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = measurement.ratio
    assert found is not None
    return _judge_interval(
        measurement, rule, limit, found.latency_ratio, found.latency_ratio_ci, found.latency_reference
    )


def _judge_interval(
    measurement: Measurement, rule: Rule, limit: float, value: float, interval: tuple[float, float], reference: str
) -> Check:
    assert measurement.ratio is not None
    low, high = interval
    outcome = outcome_below(interval, limit)
    evidence = (
        f"median {value:.3f} x {reference}, 95 % interval [{low:.3f}, {high:.3f}], "
        f"{measurement.ratio.latency_ratio_rounds} interleaved rounds of {measurement.ratio.latency_ratio_mode} queries"
    )
    if outcome == "INCONCLUSIVE":
        said = [w for w in measurement.ratio.latency_ratio_warnings if w != measurement.ratio.why_not_int8]
        evidence += f"; {'; '.join(said) or 'a longer --duration narrows it'}"
    return rule.check(measurement, limit, outcome, evidence, value, interval)


def _judge_p99(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = measurement.latency
    assert found is not None
    value, interval, n = found.latency_ms_p99, found.latency_ms_p99_ci, found.n_queries
    if value is None or interval is None:
        why = f"{n} queries carry no p99, it takes {samples_for_percentile(99)}: a longer --duration gives more"
        return rule.check(measurement, limit, "INCONCLUSIVE", why, value)
    low, high = interval
    shown = "?" if high is None else f"{high:.3f}"
    evidence = f"p99 {value:.3f} ms, 95 % interval [{low:.3f}, {shown}], {n} {found.mode} queries"
    return rule.check(measurement, limit, outcome_below((low, high), limit), evidence, value, (low, high))


RULES = (
    Rule(
        "latency_ratio_max",
        "latency / reference",
        "",
        lambda m: m.ratio is not None,
        _judge_ratio,
        _concerns,
        _owes_ratio,
        needs_kernels=True,
    ),
    Rule(
        "int8_vs_fp16_ratio_max",
        "latency / FP16",
        "",
        _has_fp16_ratio,
        _judge_fp16_ratio,
        _concerns_int8,
        absent="no FP16 engine was timed in turn with it (on a CPU FP16 is simulated, and its time says nothing)",
        needs_kernels=True,
    ),
    Rule("latency_ms_p99_max", "p99", "ms", lambda m: m.latency is not None, _judge_p99, _concerns, needs_kernels=True),
)
