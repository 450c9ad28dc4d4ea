"""Rules on accuracy: drops paired on the same images, and agreement."""

from __future__ import annotations

from edgecnn.gate.rules.guessing import Guess, against_guessing, engine_guess, needed_text, reference_guess
from edgecnn.gate.rules.rule import Rule, accuracy_of, concerns_all, has_accuracy, outcome_below
from edgecnn.results.accuracy import Paired
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome
from edgecnn.statistics import images_for_drop, images_for_share, wilson_interval


def _judge_top1_drop(measurement: Measurement, rule: Rule, limit: float) -> Check:
    return _judge_drop(measurement, rule, limit, accuracy_of(measurement).top1, "the images have no labels")


def _judge_top5_drop(measurement: Measurement, rule: Rule, limit: float) -> Check:
    few = accuracy_of(measurement).classes <= 5
    why = "top-5 says nothing with five classes or fewer" if few else "the images have no labels"
    return _judge_drop(measurement, rule, limit, accuracy_of(measurement).top5, why)


def _judge_drop(measurement: Measurement, rule: Rule, limit: float, found: Paired, absent: str) -> Check:
    accuracy = accuracy_of(measurement)
    if found.drop_pp is None or found.drop_ci_pp is None or found.lost is None or found.gained is None:
        return rule.check(measurement, limit, "INCONCLUSIVE", absent)
    n, (low, high) = accuracy.n_labelled, found.drop_ci_pp
    outcome, needed = outcome_below((low, high), limit), None
    evidence = f"drop {found.drop_pp:.2f} pp, 95 % interval [{low:.2f}, {high:.2f}], n = {n}"
    evidence += f", {found.lost} lost and {found.gained} gained"
    if outcome == "INCONCLUSIVE":
        needed = images_for_drop(found.lost, found.gained, n, limit / 100)
        evidence += needed_text(needed)
    check = rule.check(measurement, limit, outcome, evidence, found.drop_pp, (low, high), needed)
    return against_guessing(check, "top-1", engine_guess(accuracy), reference_guess(accuracy))


def _judge_agreement(measurement: Measurement, rule: Rule, limit: float) -> Check:
    accuracy = accuracy_of(measurement)
    value, n, count = accuracy.agreement_pct, accuracy.n, accuracy.agreement_n
    low, high = (100 * end for end in wilson_interval(count, n))
    outcome: Outcome = "PASS" if low >= limit else "FAIL" if high < limit else "INCONCLUSIVE"
    evidence, needed = f"agreement {value:.2f} %, 95 % interval [{low:.2f}, {high:.2f}], n = {n}", None
    if outcome == "INCONCLUSIVE":
        needed = images_for_share(count, n, limit / 100)
        evidence += needed_text(needed)
    check = rule.check(measurement, limit, outcome, evidence, value, (low, high), needed)
    copy = Guess("a perfect copy of the reference", accuracy.copy_guess_p, n)
    check = against_guessing(check, "agreement", Guess("the engine", accuracy.agreement_guess_p, n), copy)
    return against_guessing(check, "top-1", None, reference_guess(accuracy))


RULES = (
    Rule("top1_drop_pp_max", "top-1 drop", "pp", has_accuracy, _judge_top1_drop, concerns_all),
    Rule(
        "top5_drop_pp_max", "top-5 drop", "pp", has_accuracy, _judge_top5_drop, concerns_all, tasks=("classification",)
    ),
    Rule("agreement_pct_min", "agreement", "%", has_accuracy, _judge_agreement, concerns_all),
)
