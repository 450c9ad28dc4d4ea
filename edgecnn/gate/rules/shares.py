"""Rules on shares of images that must be right: in all, and of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecnn.gate.rules.guessing import against_guessing, engine_guess, needed_text, reference_guess
from edgecnn.gate.rules.rule import Rule, accuracy_of, concerns_all, has_accuracy
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome
from edgecnn.statistics import binomial_p_at_most, holm_rejects, images_for_share, wilson_interval

ONE_SIDED = 0.025  # of a two-sided 95 % interval
SHOWN = 5


def _judge_top1(measurement: Measurement, rule: Rule, limit: float) -> Check:
    return _judge_share(measurement, rule, limit, accuracy_of(measurement).top1_n, "the images have no labels")


def _judge_top5(measurement: Measurement, rule: Rule, limit: float) -> Check:
    few = accuracy_of(measurement).classes <= 5
    why = "top-5 says nothing with five classes or fewer" if few else "the images have no labels"
    return _judge_share(measurement, rule, limit, accuracy_of(measurement).top5_n, why)


def _judge_share(measurement: Measurement, rule: Rule, limit: float, count: int | None, absent: str) -> Check:
    accuracy = accuracy_of(measurement)
    n = accuracy.n_labelled
    if count is None or not n:
        return rule.check(measurement, limit, "INCONCLUSIVE", absent)
    low, high = (100 * end for end in wilson_interval(count, n))
    outcome: Outcome = "PASS" if low >= limit else "FAIL" if high < limit else "INCONCLUSIVE"
    evidence = f"{rule.label} {100 * count / n:.2f} %, 95 % interval [{low:.2f}, {high:.2f}], n = {n}"
    needed = None
    if outcome == "INCONCLUSIVE":
        needed = images_for_share(count, n, limit / 100)
        evidence += needed_text(needed)
    check = rule.check(measurement, limit, outcome, evidence, 100 * count / n, (low, high), needed)
    return against_guessing(check, "top-1", engine_guess(accuracy), reference_guess(accuracy))


@dataclass(frozen=True)
class OfClass:
    """`count` of the `n` images of one class are right."""

    name: str
    count: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, in per cent."""
        low, high = wilson_interval(self.count, self.n) if self.n else (0.0, 1.0)
        return 100 * low, 100 * high

    def __str__(self) -> str:
        return f"{self.name} ({self.count} of {self.n})"


def _judge_class_top1(measurement: Measurement, rule: Rule, limit: float) -> Check:
    rows = [OfClass(c.label_name, c.top1_n, c.n) for c in accuracy_of(measurement).class_top1]
    return judge_classes(measurement, rule, limit, rows)


def judge_classes(measurement: Measurement, rule: Rule, limit: float, classes: Sequence[OfClass]) -> Check:
    """PASS where each class passes by itself: its own error lets a bad one through, and the others cannot add to it.
    FAIL where one does, by an exact binomial test of each with Holm's correction: among many good classes some look bad
    by chance."""
    some = [c for c in classes if c.n]
    if not some:
        return rule.check(measurement, limit, "INCONCLUSIVE", "the images have no labels")
    rejected = holm_rejects([binomial_p_at_most(c.count, c.n, limit / 100) for c in some], ONE_SIDED)
    failed = [c for c, bad in zip(some, rejected, strict=True) if bad and c.interval[1] < limit]
    open_ones = [c for c in classes if c.interval[0] < limit and c not in failed]
    worst = min(some, key=lambda c: c.count / c.n)
    evidence, needed = f"{rule.label} of {len(classes)} classes, the lowest {worst}", None
    if failed:
        evidence += f"; below it: {_listed([str(c) for c in failed])}"
    if open_ones:
        wanted = {c: images_for_share(c.count, c.n, limit / 100) if c.n else None for c in open_ones}
        evidence += f"; not settled: {_listed([_open(c, wanted[c]) for c in open_ones])}"
        n = sum(c.n for c in classes)
        needed = max((math.ceil(w * n / c.n) for c, w in wanted.items() if w), default=None)
        if None in wanted.values():
            needed = None
    outcome: Outcome = "FAIL" if failed else "INCONCLUSIVE" if open_ones else "PASS"
    value = 100 * worst.count / worst.n
    check = rule.check(
        measurement, limit, outcome, evidence, value, worst.interval, None if outcome == "FAIL" else needed
    )
    accuracy = accuracy_of(measurement)
    return against_guessing(check, "top-1", engine_guess(accuracy), reference_guess(accuracy))


def _open(found: OfClass, needed: int | None) -> str:
    if not found.n:
        return f"{found.name} has no image"
    return f"{found} needs {'other images' if needed is None else f'about {needed}'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


RULES = (
    Rule("top1_pct_min", "top-1", "%", has_accuracy, _judge_top1, concerns_all),
    Rule("top5_pct_min", "top-5", "%", has_accuracy, _judge_top5, concerns_all, tasks=("classification",)),
    Rule("class_top1_pct_min", "top-1", "%", has_accuracy, _judge_class_top1, concerns_all),
)
