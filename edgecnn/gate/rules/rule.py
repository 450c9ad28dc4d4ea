"""What a rule is, and what the families share.

A tolerance is a non-inferiority margin: it passes when the whole 95 % interval is on its good side, fails when the
whole interval is on the other, and is INCONCLUSIVE otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

from edgecnn.contract import TOP_K
from edgecnn.results.accuracy import Accuracy, Task
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome

UNREAD = "the GPU compiles the plan as a whole when it loads it, and the precision of its layers cannot be read"


def kernels_unknown(measurement: Measurement) -> bool:
    """Whether an INT8 plan is one whose kernels nobody can read: NVIDIA lists no INT8 convolutions for TensorRT-RTX."""
    facts = measurement.facts
    unread = facts is not None and facts.shares_by == "compiled_at_load"
    return unread and measurement.engine.precision_requested == "int8"


def concerns_all(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    """Of a rule that judges every engine."""
    return True


def concerns_reduced(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    """Of a rule on what FP16 and INT8 are for: FP32, where it stands beside others, is what they are compared with."""
    reduced = any(m.engine.precision_requested != "fp32" for m in measurements)
    return not reduced or measurement.engine.precision_requested != "fp32"


def has_accuracy(measurement: Measurement) -> bool:
    """Whether the engine's accuracy was measured."""
    return measurement.accuracy is not None


def accuracy_of(measurement: Measurement) -> Accuracy:
    """The accuracy of an engine that has one."""
    assert measurement.accuracy is not None
    return measurement.accuracy


@dataclass(frozen=True)
class Rule:
    """One tolerance: the field of `Tolerances` that sets its limit, label and unit for readers, and how it is judged.

    `judge` is asked of the engines that the rule `concerns` and that were `measured` for it. Of the others, those that
    `owe` the value leave it open, and so do those of a task that is not among its `tasks`, and where it `needs_logits`
    (or the probabilities of all classes) those that name their best classes alone. Where the recipe leaves the
    tolerance out, the limit of the one that is its `default` holds as soon as one engine was measured for it. `absent`
    says of the others what they lack, which no recipe maps to a pass. What `needs_kernels` is said of INT8 where it is
    known that it is INT8.
    """

    tolerance: str
    label: str
    unit: str
    measured: Callable[[Measurement], bool]
    judge: Callable[[Measurement, Rule, float], Check]
    concerns: Callable[[Measurement, Sequence[Measurement]], bool] = concerns_reduced
    owes: Callable[[Measurement, Sequence[Measurement]], bool] = concerns_all
    tasks: tuple[Task, ...] = get_args(Task)
    default: str = ""
    absent: str = "not measured"
    needs_logits: bool = False
    needs_kernels: bool = False

    def serves(self, measurement: Measurement) -> bool:
        """Whether the value means anything for what the engine decides; without its accuracy that is not known."""
        return measurement.accuracy is None or measurement.accuracy.task in self.tasks

    def why_unserved(self, measurement: Measurement) -> str:
        """Why the engine does not tell the value, by its serving contract or how its plan is compiled; "" where it
        does."""
        if self.needs_kernels and kernels_unknown(measurement):
            return f"int8 was requested; {UNREAD}"
        if not self.needs_logits or measurement.accuracy is None or measurement.accuracy.output != "top-k":
            return ""
        return f"the engine names its {TOP_K} best classes alone: the {self.label} needs the logits of all"

    def check(
        self,
        measurement: Measurement,
        limit: float,
        verdict: Outcome,
        evidence: str,
        value: float | None = None,
        interval: tuple[float | None, float | None] | None = None,
        images_needed: int | None = None,
    ) -> Check:
        """The outcome of this rule for one engine."""
        return Check(measurement.name, self.tolerance, value, interval, limit, verdict, evidence, images_needed)


def outcome_below(interval: tuple[float, float | None], limit: float) -> Outcome:
    """PASS where the interval lies at or below `limit`, FAIL where it lies above."""
    low, high = interval
    if high is not None and high <= limit:
        return "PASS"
    return "FAIL" if low > limit else "INCONCLUSIVE"


def judge_exact(measurement: Measurement, rule: Rule, limit: float, value: float, *, at_most: bool) -> Check:
    """A value that was counted, not sampled; `at_most` says which side of the limit is good."""
    good = value <= limit if at_most else value >= limit
    evidence = f"{rule.label} {value:.4g} {rule.unit}"
    return rule.check(measurement, limit, "PASS" if good else "FAIL", evidence, value)
