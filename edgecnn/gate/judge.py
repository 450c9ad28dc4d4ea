"""From measurements, tolerances and a baseline to a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from edgecnn.errors import MeasurementError
from edgecnn.gate.baseline import check_regressions
from edgecnn.gate.rules import RULES
from edgecnn.gate.rules.precision import check_precision
from edgecnn.recipe.schema import Tolerances
from edgecnn.recipe.variants import Variant
from edgecnn.results.baseline import Baseline
from edgecnn.results.device import Device
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import MEASURED, RUNS, Check, Verdict


def judge(
    tolerances: Tolerances,
    measurements: Sequence[Measurement],
    *,
    baseline: Baseline | None = None,
    device: Device | None = None,
    wanted: Sequence[Variant] = (),
) -> Verdict:
    """Judge every measurement by every tolerance that is set, and against the baseline.

    A tolerance whose value a measurement owes and does not carry is INCONCLUSIVE, and so is one that no measurement
    carries, and an engine that is `wanted` and of which nothing was measured. Raises `MeasurementError` for no
    measurements, and for a baseline of another device or of other data.
    """
    if not measurements:
        raise MeasurementError("nothing was measured", "run `edgecnn validate` and `edgecnn bench` first")
    checks = [check for m in measurements for check in (*_check_ran(m), *_check_finite(m), *check_precision(m))]
    checks += _check_tolerances(tolerances, measurements)
    if baseline is not None:
        checks += check_regressions(measurements, baseline, device)
    checks += [_nothing_measured(v.name) for v in wanted if not any(_is(m, v) for m in measurements)]
    return Verdict(tuple(checks), tolerances.inconclusive)


def worst_of(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on several builds of the same engines: of each check the worst outcome, and of equal ones the value
    nearest to its limit, or farthest beyond it."""
    if len(verdicts) == 1:
        return verdicts[0]
    found: dict[tuple[str, str], list[tuple[int, Check]]] = {}
    for k, verdict in enumerate(verdicts, 1):
        for check in verdict.checks:
            found.setdefault((check.name, check.tolerance), []).append((k, check))
    checks = []
    for builds in found.values():
        k, worst = max(builds, key=lambda build: _badness(build[1]))
        differ = len(builds) < len(verdicts) or any(check.evidence != worst.evidence for _, check in builds)
        told = f"{worst.evidence}; build {k}, the worst of {len(verdicts)}" if differ else worst.evidence
        checks.append(dataclasses.replace(worst, evidence=told))
    return Verdict(tuple(checks), verdicts[0].inconclusive)


def _badness(check: Check) -> tuple[int, float]:
    distance = abs(check.value - check.limit) if check.value is not None and check.limit is not None else 0.0
    return ("PASS", "INCONCLUSIVE", "FAIL").index(check.verdict), distance if check.verdict == "FAIL" else -distance


def _is(measurement: Measurement, variant: Variant) -> bool:
    """By its precision and scheme; its name tells where these are not known, and never against them."""
    told = (measurement.engine.precision_requested, measurement.engine.scheme)
    asked = (variant.precision, variant.scheme)
    return told == asked or (
        measurement.name == variant.name and all(t in ("", a) for t, a in zip(told, asked, strict=True))
    )


def _check_tolerances(tolerances: Tolerances, measurements: Sequence[Measurement]) -> Iterator[Check]:
    for rule in RULES.values():
        concerned = [m for m in measurements if rule.concerns(m, measurements)]
        limit: float | None = getattr(tolerances, rule.tolerance)
        if limit is None and rule.default and any(rule.measured(m) for m in concerned):
            limit = getattr(tolerances, rule.default)
            if limit is None:
                why = f"no margin: set tolerances.{rule.tolerance}, or {rule.default}"
                yield from (Check(m.name, rule.tolerance, None, None, None, "INCONCLUSIVE", why) for m in concerned)
        if limit is None:
            continue
        if not any(rule.measured(m) or rule.why_unserved(m) for m in concerned):
            yield Check("all", rule.tolerance, None, None, limit, "INCONCLUSIVE", rule.absent, mappable=False)
            continue
        for m in concerned:
            if not rule.serves(m):
                yield rule.check(m, limit, "INCONCLUSIVE", f"the {rule.label} says nothing about a {_task(m)} decision")
            elif why := rule.why_unserved(m):
                yield dataclasses.replace(rule.check(m, limit, "INCONCLUSIVE", why), mappable=False)
            elif rule.measured(m):
                yield rule.judge(m, rule, limit)
            elif rule.owes(m, measurements):
                yield dataclasses.replace(rule.check(m, limit, "INCONCLUSIVE", rule.absent), mappable=False)


def _task(measurement: Measurement) -> str:
    return measurement.accuracy.task if measurement.accuracy else ""


def _check_ran(measurement: Measurement) -> Iterator[Check]:
    if crash := measurement.crash:
        evidence = f"it took the process that ran it down in {crash.crash_step}: {crash.crash_ended}"
        yield Check(measurement.name, RUNS, None, None, None, "FAIL", evidence)


def _check_finite(measurement: Measurement) -> Iterator[Check]:
    accuracy = measurement.accuracy
    if accuracy is not None and accuracy.nan_count:
        evidence = f"logits that are not finite on {accuracy.nan_count} of {accuracy.n} images"
        yield Check(measurement.name, "nan_count_max", float(accuracy.nan_count), None, 0.0, "FAIL", evidence)
    pairs = measurement.verification
    if pairs is not None and (broken := pairs.verification_nan_count):
        evidence = f"embeddings that are not finite on {broken} of {pairs.verification_n} images"
        yield Check(measurement.name, "nan_count_max", float(broken), None, 0.0, "FAIL", evidence)


def _nothing_measured(name: str) -> Check:
    evidence = "the recipe asks for it; nothing was measured"
    return Check(name, MEASURED, None, None, None, "INCONCLUSIVE", evidence, mappable=False)
