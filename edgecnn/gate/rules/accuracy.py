"""Rules on accuracy: drops paired on the same images, and agreement."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecnn.gate.rules.rule import Rule, concerns_all, outcome_below
from edgecnn.results.accuracy import Accuracy, Paired
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome
from edgecnn.statistics import images_for_drop, images_for_share, images_to_tell, wilson_interval

GUESS_P = 2.87e-7  # one chance in three million that guessing gets past (five standard errors)
NO_BETTER_P = 0.025


def _measured(measurement: Measurement) -> bool:
    return measurement.accuracy is not None


def _accuracy(measurement: Measurement) -> Accuracy:
    assert measurement.accuracy is not None
    return measurement.accuracy


def _judge_top1_drop(measurement: Measurement, rule: Rule, limit: float) -> Check:
    return _judge_drop(measurement, rule, limit, _accuracy(measurement).top1, "the images have no labels")


def _judge_top5_drop(measurement: Measurement, rule: Rule, limit: float) -> Check:
    few = _accuracy(measurement).classes <= 5
    why = "top-5 says nothing with five classes or fewer" if few else "the images have no labels"
    return _judge_drop(measurement, rule, limit, _accuracy(measurement).top5, why)


def _judge_drop(measurement: Measurement, rule: Rule, limit: float, found: Paired, absent: str) -> Check:
    accuracy = _accuracy(measurement)
    if found.drop_pp is None or found.drop_ci_pp is None or found.lost is None or found.gained is None:
        return rule.check(measurement, limit, "INCONCLUSIVE", absent)
    n, (low, high) = accuracy.n_labelled, found.drop_ci_pp
    outcome, needed = outcome_below((low, high), limit), None
    evidence = f"drop {found.drop_pp:.2f} pp, 95 % interval [{low:.2f}, {high:.2f}], n = {n}"
    evidence += f", {found.lost} lost and {found.gained} gained"
    if outcome == "INCONCLUSIVE":
        needed = images_for_drop(found.lost, found.gained, n, limit / 100)
        evidence += _needed_text(needed)
    check = rule.check(measurement, limit, outcome, evidence, found.drop_pp, (low, high), needed)
    return _against_guessing(check, "top-1", _engine_guess(accuracy), _reference_guess(accuracy))


def _judge_agreement(measurement: Measurement, rule: Rule, limit: float) -> Check:
    accuracy = _accuracy(measurement)
    value, n, count = accuracy.agreement_pct, accuracy.n, accuracy.agreement_n
    low, high = (100 * end for end in wilson_interval(count, n))
    outcome: Outcome = "PASS" if low >= limit else "FAIL" if high < limit else "INCONCLUSIVE"
    evidence, needed = f"agreement {value:.2f} %, 95 % interval [{low:.2f}, {high:.2f}], n = {n}", None
    if outcome == "INCONCLUSIVE":
        needed = images_for_share(count, n, limit / 100)
        evidence += _needed_text(needed)
    check = rule.check(measurement, limit, outcome, evidence, value, (low, high), needed)
    copy = Guess("a perfect copy of the reference", accuracy.copy_guess_p, n)
    check = _against_guessing(check, "agreement", Guess("the engine", accuracy.agreement_guess_p, n), copy)
    return _against_guessing(check, "top-1", None, _reference_guess(accuracy))


def _needed_text(needed: int | None) -> str:
    if needed is None:
        return "; no number of images would settle it: the value is at the limit"
    return f"; about {needed} images would settle it if the shares stay as they are"


@dataclass(frozen=True)
class Guess:
    """How probable it is that guessing does as well as somebody on `n` images."""

    who: str
    p: float
    n: int

    @property
    def told(self) -> bool:
        return self.p < GUESS_P


def _engine_guess(accuracy: Accuracy) -> Guess | None:
    p = accuracy.top1_guess_p
    return None if p is None else Guess("the engine", p, accuracy.n_labelled)


def _reference_guess(accuracy: Accuracy) -> Guess | None:
    p = accuracy.reference_top1_guess_p
    return None if p is None else Guess("the reference", p, accuracy.n_labelled)


def _against_guessing(check: Check, what: str, engine: Guess | None, possible: Guess | None) -> Check:
    """`check` where its figures can be told from guessing; `possible` is what could have been right at all.

    A drop beyond the limit stays a FAIL. An engine that does no better than guessing fails where the reference does;
    what `n` images cannot tell from guessing is INCONCLUSIVE, whatever the recipe says.
    """
    if check.verdict == "FAIL" or possible is None:
        return check
    if possible.told and engine is not None and engine.p > NO_BETTER_P:
        said = f"the engine does no better than guessing, {possible.who} does: {what} on {engine.n} images, p = "
        said += f"{engine.p:.2g}; {check.evidence}"
        return replace(check, verdict="FAIL", evidence=said, images_needed=None)
    open_ones = [g for g in (possible, engine) if g is not None and not g.told]
    if not open_ones:
        return check
    wanted = [images_to_tell(g.p, g.n, GUESS_P) for g in open_ones]
    if check.verdict == "INCONCLUSIVE":
        wanted.append(check.images_needed)
    known = [w for w in wanted if w is not None]
    needed = max(known) if len(known) == len(wanted) else None
    worst = open_ones[0]
    said = f"{worst.who} cannot be told from guessing: {what} on {worst.n} images, p = {worst.p:.2g}"
    said += (
        "; more such images would not settle it: it takes more of other classes, or a better reference"
        if needed is None
        else f"; about {needed} images would settle it if the shares stay as they are"
    )
    said += f"; {check.evidence}"
    return replace(check, verdict="INCONCLUSIVE", evidence=said, images_needed=needed, mappable=False)


RULES = (
    Rule("top1_drop_pp_max", "top-1 drop", "pp", _measured, _judge_top1_drop, concerns_all),
    Rule("top5_drop_pp_max", "top-5 drop", "pp", _measured, _judge_top5_drop, concerns_all, tasks=("classification",)),
    Rule("agreement_pct_min", "agreement", "%", _measured, _judge_agreement, concerns_all),
)
