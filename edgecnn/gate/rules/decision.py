"""Rules on what an engine decides at its threshold, and on the confidence that it decides by."""

from __future__ import annotations

import math

from edgecnn.gate.rules.guessing import Guess, against_guessing, engine_guess, needed_text, reference_guess
from edgecnn.gate.rules.rule import Rule, accuracy_of, concerns_all, outcome_below
from edgecnn.gate.rules.shares import OfClass, judge_classes
from edgecnn.gate.rules.verification import judge_changed_pairs
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from edgecnn.statistics import images_for_share, wilson_interval

UNDECIDED = "not measured at a threshold: validate with the recipe's [decision]"


def _decided(measurement: Measurement) -> bool:
    return measurement.verification is not None or _decided_class(measurement)


def _decided_class(measurement: Measurement) -> bool:
    return measurement.accuracy is not None and measurement.accuracy.decision_flips_n is not None


def _judge_flips(measurement: Measurement, rule: Rule, limit: float) -> Check:
    if measurement.verification is not None:
        return judge_changed_pairs(measurement, rule, limit)
    accuracy = accuracy_of(measurement)
    n, count = accuracy.n, accuracy.decision_flips_n
    assert count is not None
    low, high = (100 * end for end in wilson_interval(count, n))
    outcome = outcome_below((low, high), limit)
    evidence = f"{count} of {n} decisions are not the reference's, 95 % interval [{low:.2f}, {high:.2f}] %"
    rejected = (accuracy.decision_rejected_pct or 0.0, accuracy.reference_decision_rejected_pct or 0.0)
    if any(rejected):
        evidence += f"; rejected {rejected[0]:.2f} %, by the reference {rejected[1]:.2f} %"
    needed = None
    if outcome == "INCONCLUSIVE":
        needed = images_for_share(n - count, n, 1 - limit / 100)
        evidence += needed_text(needed)
    check = rule.check(measurement, limit, outcome, evidence, 100 * count / n, (low, high), needed)
    copy = Guess("a perfect copy of the reference", _p(accuracy.decision_copy_guess_p), n)
    check = against_guessing(check, "decisions", Guess("the engine", _p(accuracy.decision_guess_p), n), copy)
    return against_guessing(check, "top-1", None, reference_guess(accuracy))


def _p(value: float | None) -> float:
    return 1.0 if value is None else value


def _judge_recall(measurement: Measurement, rule: Rule, limit: float) -> Check:
    rows = [OfClass(c.label_name, c.recall_n, c.n) for c in accuracy_of(measurement).decision_classes]
    return judge_classes(measurement, rule, limit, rows)


def _judge_calibration(measurement: Measurement, rule: Rule, limit: float) -> Check:
    accuracy = accuracy_of(measurement)
    value, interval = accuracy.calibration_error_pp, accuracy.calibration_error_ci_pp
    assert value is not None
    assert interval is not None
    low, high = interval
    outcome, needed = outcome_below(interval, limit), None
    evidence = (
        f"confidence is {value:.2f} pp from the reference's, 95 % interval [{low:.2f}, {high:.2f}], n = {accuracy.n}"
    )
    if outcome == "INCONCLUSIVE":
        half = high - value if value <= limit else value - low
        needed = None if value == limit else math.ceil(accuracy.n * (half / (limit - value)) ** 2)
        evidence += needed_text(needed)
    check = rule.check(measurement, limit, outcome, evidence, value, interval, needed)
    return against_guessing(check, "top-1", engine_guess(accuracy), reference_guess(accuracy))


def _has_confidence(measurement: Measurement) -> bool:
    return measurement.accuracy is not None and measurement.accuracy.calibration_error_ci_pp is not None


RULES = (
    Rule(
        "decision_flips_pct_max",
        "flips",
        "%",
        _decided,
        _judge_flips,
        concerns_all,
        absent=UNDECIDED,
        needs_logits=True,
    ),
    Rule(
        "class_recall_pct_min",
        "recall",
        "%",
        _decided_class,
        _judge_recall,
        concerns_all,
        absent=UNDECIDED,
        needs_logits=True,
    ),
    Rule(
        "calibration_error_pp_max",
        "calibration error",
        "pp",
        _has_confidence,
        _judge_calibration,
        concerns_all,
        needs_logits=True,
    ),
)
