"""The rule on what was lost since the baselines: one is of a model that a customer has."""

from __future__ import annotations

from edgecnn.gate.rules.guessing import against_guessing, engine_guess, needed_text, reference_guess
from edgecnn.gate.rules.rule import Rule, accuracy_of, concerns_all, outcome_below
from edgecnn.results.accuracy_baseline import BaselineDrop
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check
from edgecnn.statistics import images_for_difference, images_for_drop

NO_BASELINE = "no baseline is recorded: `edgecnn gate --record` records one"
SAID = {"last": "the last baseline", "best": "the best baseline"}


def _judge_regression(measurement: Measurement, rule: Rule, limit: float) -> Check:
    """By the worse of both comparisons; the margin is that of the last baseline for the best one too, so that small
    losses cannot add up."""
    judged = [(outcome_below(drop.drop_ci_pp, limit), drop) for drop in measurement.baseline_drops]
    outcome, worst = max(judged, key=lambda pair: (_rank(pair[0]), pair[1].drop_ci_pp[0]))
    evidence = f"top-1 {_top1(measurement):.2f} %; " + "; ".join(_compared(d) for _, d in judged)
    needed = None
    if outcome == "INCONCLUSIVE":
        needed = _images_needed(measurement, worst, limit)
        evidence += needed_text(needed)
        if not worst.paired:
            evidence += " (on the baseline's own images far fewer would do)"
    check = rule.check(measurement, limit, outcome, evidence, worst.drop_pp, worst.drop_ci_pp, needed)
    accuracy = accuracy_of(measurement)
    return against_guessing(check, "top-1", engine_guess(accuracy), reference_guess(accuracy))


def _rank(outcome: str) -> int:
    return ("PASS", "INCONCLUSIVE", "FAIL").index(outcome)


def _top1(measurement: Measurement) -> float:
    return accuracy_of(measurement).top1_pct or 0.0


def _compared(drop: BaselineDrop) -> str:
    low, high = drop.drop_ci_pp
    images = (
        f"{drop.lost} lost and {drop.gained} gained of the same {drop.n} images"
        if drop.paired
        else f"on other images, {drop.n} then"
    )
    return (
        f"{SAID[drop.baseline]} {drop.top1_pct:.2f} %: drop {drop.drop_pp:.2f} pp, 95 % interval "
        f"[{low:.2f}, {high:.2f}], {images}"
    )


def _images_needed(measurement: Measurement, drop: BaselineDrop, limit: float) -> int | None:
    if drop.lost is not None and drop.gained is not None:
        return images_for_drop(drop.lost, drop.gained, drop.n, limit / 100)
    accuracy = accuracy_of(measurement)
    return images_for_difference(drop.top1_n, drop.n, accuracy.top1_n or 0, accuracy.n_labelled, limit / 100)


RULES = (
    Rule(
        "top1_regression_pp_max",
        "top-1 drop from the baseline",
        "pp",
        lambda m: bool(m.baseline_drops),
        _judge_regression,
        concerns_all,
        default="top1_drop_pp_max",
        absent=NO_BASELINE,
    ),
)
