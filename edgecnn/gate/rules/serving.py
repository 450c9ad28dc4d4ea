"""The rule on what the serving side's geometry costs."""

from __future__ import annotations

from edgecnn.gate.rules.guessing import against_guessing, engine_guess, reference_guess
from edgecnn.gate.rules.rule import Rule, accuracy_of, concerns_all, outcome_below
from edgecnn.results.report import Measurement
from edgecnn.results.serving import ServingLoss
from edgecnn.results.verdict import Check
from edgecnn.statistics import images_for_drop


def _loss(measurement: Measurement) -> ServingLoss | None:
    return measurement.accuracy.serving if measurement.accuracy else None


def _judge(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = _loss(measurement)
    assert found is not None
    drop, interval, lost, gained = (
        found.serving_drop_pp,
        found.serving_drop_ci_pp,
        found.serving_lost,
        found.serving_gained,
    )
    if drop is None or interval is None or lost is None or gained is None:
        return rule.check(measurement, limit, "INCONCLUSIVE", "the images have no labels")
    n, outcome = found.serving_n_labelled, outcome_below(interval, limit)
    evidence = (
        f"{found.serving_geometry}: drop {drop:.2f} pp to the network's own resize and crop, 95 % interval "
        f"[{interval[0]:.2f}, {interval[1]:.2f}], n = {n}, {lost} lost and {gained} gained"
    )
    needed = images_for_drop(lost, gained, n, limit / 100) if outcome == "INCONCLUSIVE" else None
    if outcome == "INCONCLUSIVE":
        settled = "no number of images would settle it" if needed is None else f"about {needed} images would settle it"
        evidence += f"; {settled} if the shares stay as they are"
    check = rule.check(measurement, limit, outcome, evidence, drop, interval, needed)
    accuracy = accuracy_of(measurement)
    return against_guessing(check, "top-1", engine_guess(accuracy), reference_guess(accuracy))


RULES = (Rule("serving_drop_pp_max", "serving drop", "pp", lambda m: _loss(m) is not None, _judge, concerns_all),)
