"""Rules on embeddings: what verification loses, and how far each embedding is from the reference's."""

from __future__ import annotations

from dataclasses import replace

from edgecnn.gate.rules.rule import Rule, concerns_all, outcome_below
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from edgecnn.results.verification import Interval, Verification


def _verifies(measurement: Measurement) -> bool:
    return measurement.verification is not None


def _of(measurement: Measurement) -> Verification:
    assert measurement.verification is not None
    return measurement.verification


def _judge_drop(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = _of(measurement)
    evidence = (
        f"accuracy {found.verification_pct:.2f} % at the threshold {found.verification_threshold:.4g}, drop "
        f"{found.verification_drop_pp:.2f} pp"
    )
    return _judged(measurement, rule, limit, evidence, found.verification_drop_pp, found.verification_drop_ci_pp)


def judge_changed_pairs(measurement: Measurement, rule: Rule, limit: float) -> Check:
    """Decisions on pairs that are not the reference's, in per cent."""
    found = _of(measurement)
    pairs = found.same_pairs + found.different_pairs
    evidence = f"{found.decisions_changed_n} of {pairs} decisions are not the reference's"
    value, interval = found.decisions_changed_pct, found.decisions_changed_ci_pct
    return _judged(measurement, rule, limit, evidence, value, interval)


def _judged(
    measurement: Measurement, rule: Rule, limit: float, evidence: str, value: float, interval: Interval
) -> Check:
    found = _of(measurement)
    (low, high), outcome = interval, outcome_below(interval, limit)
    over = (
        f"{found.identities} {found.resampled}"
        if found.resampled == "identities"
        else (f"{found.verification_n} images of {found.identities} classes, and holds for these alone")
    )
    evidence += f", 95 % interval [{low:.2f}, {high:.2f}] over {over}"
    return _against_guessing(rule.check(measurement, limit, outcome, evidence, value, interval), found)


def _judge_cosine(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = _of(measurement)
    least, mean = found.embedding_cosine_least, found.embedding_cosine_mean
    if least is None or mean is None:
        return rule.check(measurement, limit, "INCONCLUSIVE", "no image has finite embeddings on both sides")
    evidence = (
        f"the least {rule.label} with the reference's embedding is {least:.4f}, of {found.embedding_worst_image}; the "
        f"mean of {found.verification_n} images {mean:.4f}"
    )
    return _against_guessing(
        rule.check(measurement, limit, "PASS" if least >= limit else "FAIL", evidence, least), found
    )


def _against_guessing(check: Check, found: Verification) -> Check:
    """What a reference that guesses loses, or agrees with, proves nothing."""
    low = found.reference_roc_auc_ci[0]
    if check.verdict == "FAIL" or low > 0.5:
        return check
    said = (
        f"the reference cannot be told from guessing: its ROC AUC is {found.reference_roc_auc:.3f}, 95 % interval from "
        f"{low:.3f}; {check.evidence}"
    )
    return replace(check, verdict="INCONCLUSIVE", evidence=said, mappable=False)


RULES = (
    Rule("verification_drop_pp_max", "verification drop", "pp", _verifies, _judge_drop, concerns_all),
    Rule("embedding_cosine_min", "cosine", "", _verifies, _judge_cosine, concerns_all),
)
