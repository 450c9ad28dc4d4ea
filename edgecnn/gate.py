"""The gate: tolerances and measurements in, a verdict out. Pure: no files, no clocks.

A tolerance is a non-inferiority margin. It passes when the whole 95 % interval is on its good side, fails when the
whole interval is on the other, and is INCONCLUSIVE otherwise, with the number of images that would settle it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edgecnn.errors import MeasurementError
from edgecnn.inspection.layers import judge_precision
from edgecnn.recipe.schema import Tolerances
from edgecnn.statistics import images_above, images_for_drop, images_for_share, samples_for_percentile, wilson_interval

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Measurement = Mapping[str, Any]

BASELINE = "fp32"  # what the others are compared with: only its accuracy is judged
SIMULATED = "-tensorrt"  # ends the name of a TensorRT placement simulated on a CPU: its speed says nothing
ACCURACY = ("top1_drop_pp_max", "top5_drop_pp_max", "agreement_pct_min")
MEASURED = "measured"  # in place of a tolerance: whether anything was measured of an engine
GUESS_Z = 5.0  # one chance in three million that guessing gets past
SAME = ("data", "n", "batch", "mode")  # without which an accepted number says nothing about a new one
REGRESSION_MAX = {"latency_ms_p50": 1.10, "size_mb": 1.02}  # against the accepted number


@dataclass(frozen=True)
class Judgement:
    """One tolerance of one engine: the value, its interval where it has one, the limit and the evidence.

    `mappable` is False for an INCONCLUSIVE that no recipe may map to a pass.
    """

    name: str
    tolerance: str
    value: float | None
    interval: tuple[float | None, float | None] | None
    limit: float | None
    verdict: Outcome
    evidence: str
    images_needed: int | None = None
    mappable: bool = True


@dataclass(frozen=True)
class Verdict:
    """All judgements; the worst of them decides. Without any the verdict is INCONCLUSIVE: nothing was proved."""

    judgements: tuple[Judgement, ...]
    inconclusive: Literal["inconclusive", "pass", "fail"] = "inconclusive"
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Outcome:
        """FAIL if anything failed, PASS if everything passed; the recipe may map what stays open, but lets no engine
        pass of which nothing was measured, or whose figures guessing would reach."""
        outcomes = {j.verdict for j in self.judgements}
        if "FAIL" in outcomes:
            return "FAIL"
        if outcomes == {"PASS"}:
            return "PASS"
        if self.inconclusive == "pass" and any(not j.mappable for j in self.judgements):
            return "INCONCLUSIVE"
        mapped: dict[str, Outcome] = {"inconclusive": "INCONCLUSIVE", "pass": "PASS", "fail": "FAIL"}
        return mapped[self.inconclusive] if outcomes else "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 inconclusive."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """As it stands in verdict.json."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "inconclusive": self.inconclusive,
            "judgements": [{**asdict(j), "interval": j.interval and list(j.interval)} for j in self.judgements],
            "notes": list(self.notes),
        }


def judge(
    tolerances: Tolerances, measurements: Sequence[Measurement], accepted: Mapping[str, Any] | None = None
) -> Verdict:
    """Judge every measurement by every tolerance that is set, and against the accepted numbers.

    A measurement is a flat mapping with `name` and DESIGN's keys; a tolerance whose value it owes and does not carry is
    INCONCLUSIVE, and so is one that no measurement carries. Raises `MeasurementError` for no measurements and for
    accepted numbers of another device or of other data.
    """
    if not measurements:
        raise MeasurementError("nothing was measured", "run `edgecnn validate` and `edgecnn bench` first")
    judgements: list[Judgement] = []
    for measurement in measurements:
        judgements += _broken(measurement)
    for tolerance in [t for t in _JUDGES if getattr(tolerances, t) is not None]:
        limit = getattr(tolerances, tolerance)
        concerned = [m for m in measurements if _applies(tolerance, m, measurements)]
        if not any(_key(tolerance) in m for m in concerned):
            judgements.append(_not_measured("all", tolerance, limit))
            continue
        for m in concerned:
            if _key(tolerance) in m:
                judgements.append(_JUDGES[tolerance](m, tolerance, limit))
            elif _owes(tolerance, m, measurements):
                judgements.append(_not_measured(m["name"], tolerance, limit))
    if accepted is not None:
        judgements += _regressions(measurements, accepted)
    return Verdict(tuple(judgements), tolerances.inconclusive)


def accepted_numbers(measurements: Sequence[Measurement], device_key: str) -> dict[str, Any]:
    """What `gate --record` writes: the numbers that a later run is held against."""
    keys = (*SAME, "top1_pct", "top5_pct", "top1_drop_pp", "agreement_pct", *REGRESSION_MAX)
    return {
        "device_key": device_key,
        "accepted": {m["name"]: {k: m[k] for k in keys if m.get(k) is not None} for m in measurements},
    }


def _key(tolerance: str) -> str:
    return tolerance.rpartition("_")[0]


def _applies(tolerance: str, measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    if tolerance in ACCURACY:
        return True
    baseline = measurement["name"] == BASELINE and len(measurements) > 1
    simulated = measurement["name"].endswith(SIMULATED) or bool(measurement.get("simulated"))
    return not baseline and not (simulated and tolerance.startswith("latency"))


def _owes(tolerance: str, measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    """Whether the tolerance is open on a measurement without its value: FP32 and FP16 have no INT8 share, and what the
    others are compared with has no ratio to itself."""
    if tolerance == "int8_share_pct_min":
        return bool(measurement.get("precision_requested") == "int8")
    compared_with = {m.get("latency_reference") for m in measurements}
    return tolerance != "latency_ratio_max" or measurement["name"] not in compared_with


def _not_measured(name: str, tolerance: str, limit: float) -> Judgement:
    return Judgement(name, tolerance, None, None, limit, "INCONCLUSIVE", "not measured")


def _broken(measurement: Measurement) -> Iterator[Judgement]:
    """What is judged whatever the tolerances are."""
    name, count = measurement["name"], measurement.get("nan_count") or 0
    if count:
        evidence = f"logits that are not finite on {count} of {measurement.get('n')} images"
        yield Judgement(name, "nan_count_max", float(count), None, 0.0, "FAIL", evidence)
    if precision := judge_precision(measurement):
        yield Judgement(name, "precision_obtained", None, None, None, *precision)


def _outcome_below(interval: tuple[float, float | None], limit: float) -> Outcome:
    low, high = interval
    if high is not None and high <= limit:
        return "PASS"
    return "FAIL" if low > limit else "INCONCLUSIVE"


def _against_chance(
    judgement: Judgement, what: str, n: int, chance_pct: float, right: int, possible: tuple[str, int]
) -> Judgement:
    """`judgement` where its figures can be told from guessing: of `n` images the engine is `right` on so many, and
    `possible` says of whom, and how often, that much could have been right at all (the reference, or a copy of it).

    A drop beyond the limit stays a FAIL. An engine at chance level fails where the reference is not; what `n` images
    cannot tell from chance by `GUESS_Z` standard errors is INCONCLUSIVE, whatever the recipe says.
    """
    if judgement.verdict == "FAIL":
        return judgement
    figures = judgement.evidence.partition("; ")[0]
    told = {count: 100 * wilson_interval(count, n, GUESS_Z)[0] > chance_pct for count in (right, possible[1])}
    if all(told.values()):
        return judgement
    if told[possible[1]] and 100 * wilson_interval(right, n)[0] <= chance_pct:
        said = f"the engine is at chance level, {possible[0]} is not: {what} {100 * right / n:.2f} % on {n} images, "
        said += f"chance level {chance_pct:.2f} %; {figures}"
        return replace(judgement, verdict="FAIL", evidence=said, images_needed=None)
    who, count = ("the engine", right) if told[possible[1]] else possible
    hopeless = 100 * possible[1] / n <= chance_pct
    wanted = [images_above(c, n, chance_pct / 100, GUESS_Z) for c in (right, possible[1]) if 100 * c / n > chance_pct]
    if judgement.verdict == "INCONCLUSIVE":
        wanted.append(judgement.images_needed)
    known = [w for w in wanted if w is not None]
    needed = None if hopeless or len(known) < len(wanted) else max(known)
    said = f"{who} cannot be told from guessing: {what} {100 * count / n:.2f} % on {n} images, chance level "
    said += f"{chance_pct:.2f} %" + (
        "; more such images would not settle it: it takes more of other classes, or a better reference"
        if hopeless
        else _needed_text(needed)
    )
    said += f"; {figures}"
    return replace(judgement, verdict="INCONCLUSIVE", evidence=said, images_needed=needed, mappable=False)


def _judge_drop(measurement: Measurement, tolerance: str, limit: float) -> Judgement:
    metric = tolerance.partition("_")[0]
    value, interval = measurement[f"{metric}_drop_pp"], measurement.get(f"{metric}_drop_ci_pp")
    name, n = measurement["name"], measurement.get("n_labelled", measurement.get("n"))
    if value is None or interval is None:
        few = metric == "top5" and measurement.get("classes", 6) <= 5
        why = "top-5 says nothing with five classes or fewer" if few else "the images have no labels"
        return Judgement(name, tolerance, None, None, limit, "INCONCLUSIVE", why)
    low, high = interval
    outcome, needed = _outcome_below((low, high), limit), None
    lost, gained = measurement.get(f"{metric}_lost"), measurement.get(f"{metric}_gained")
    evidence = f"drop {value:.2f} pp, 95 % interval [{low:.2f}, {high:.2f}], n = {n}"
    if lost is not None and gained is not None:
        evidence += f", {lost} lost and {gained} gained"
        if outcome == "INCONCLUSIVE":
            needed = images_for_drop(lost, gained, int(n or 0), limit / 100)
            evidence += _needed_text(needed)
    found = Judgement(name, tolerance, value, (low, high), limit, outcome, evidence, needed)
    labelled, chance = measurement.get("n_labelled"), measurement.get("top1_chance_pct")
    if not labelled or chance is None:
        return found
    ours, theirs = (round(measurement[key] / 100 * labelled) for key in ("top1_pct", "reference_top1_pct"))
    return _against_chance(found, "top-1", labelled, chance, ours, ("the reference", theirs))


def _judge_agreement(measurement: Measurement, tolerance: str, limit: float) -> Judgement:
    name, value, n = measurement["name"], measurement["agreement_pct"], int(measurement["n"])
    count = int(measurement.get("agreement_n", round(value / 100 * n)))
    low, high = (100 * end for end in wilson_interval(count, n))
    outcome: Outcome = "PASS" if low >= limit else "FAIL" if high < limit else "INCONCLUSIVE"
    evidence, needed = f"agreement {value:.2f} %, 95 % interval [{low:.2f}, {high:.2f}], n = {n}", None
    if outcome == "INCONCLUSIVE":
        needed = images_for_share(count, n, limit / 100)
        evidence += _needed_text(needed)
    found = Judgement(name, tolerance, value, (low, high), limit, outcome, evidence, needed)
    chance = measurement.get("agreement_chance_pct")
    return (
        found if chance is None else _against_chance(found, "agreement", n, chance, count, ("even a perfect copy", n))
    )


def _needed_text(needed: int | None) -> str:
    if needed is None:
        return "; no number of images would settle it: the value is at the limit"
    return f"; about {needed} images would settle it if the shares stay as they are"


def _judge_ratio(measurement: Measurement, tolerance: str, limit: float) -> Judgement:
    name, value, interval = measurement["name"], measurement["latency_ratio"], measurement.get("latency_ratio_ci")
    if value is None or interval is None:
        return Judgement(name, tolerance, value, None, limit, "INCONCLUSIVE", "no interleaved comparison was made")
    low, high = interval
    outcome = _outcome_below((low, high), limit)
    evidence = (
        f"median {value:.3f} x {measurement.get('latency_reference', 'the reference')}, 95 % interval "
        f"[{low:.3f}, {high:.3f}], {measurement.get('latency_ratio_rounds', '?')} interleaved rounds"
    )
    if outcome == "INCONCLUSIVE":
        evidence += "; a longer --duration narrows it"
    return Judgement(name, tolerance, value, (low, high), limit, outcome, evidence)


def _judge_p99(measurement: Measurement, tolerance: str, limit: float) -> Judgement:
    name, value, interval = measurement["name"], measurement["latency_ms_p99"], measurement.get("latency_ms_p99_ci")
    n = measurement.get("n_queries", "?")
    if value is None or interval is None:
        why = f"{n} queries carry no p99, it takes {samples_for_percentile(99)}: a longer --duration gives more"
        return Judgement(name, tolerance, value, None, limit, "INCONCLUSIVE", why)
    low, high = interval
    shown = "?" if high is None else f"{high:.3f}"
    evidence = f"p99 {value:.3f} ms, 95 % interval [{low:.3f}, {shown}], {n} queries"
    return Judgement(name, tolerance, value, (low, high), limit, _outcome_below((low, high), limit), evidence)


def _judge_exact(measurement: Measurement, tolerance: str, limit: float) -> Judgement:
    """Values that are counted, not sampled."""
    name, value = measurement["name"], measurement[_key(tolerance)]
    if value is None:
        return Judgement(name, tolerance, None, None, limit, "INCONCLUSIVE", "not measured")
    good = value <= limit if tolerance.endswith("_max") else value >= limit
    return Judgement(name, tolerance, value, None, limit, "PASS" if good else "FAIL", f"{_key(tolerance)} {value:.4g}")


_JUDGES = {
    "top1_drop_pp_max": _judge_drop,
    "top5_drop_pp_max": _judge_drop,
    "agreement_pct_min": _judge_agreement,
    "int8_share_pct_min": _judge_exact,
    "latency_ratio_max": _judge_ratio,
    "latency_ms_p99_max": _judge_p99,
    "size_mb_max": _judge_exact,
}


def _regressions(measurements: Sequence[Measurement], accepted: Mapping[str, Any]) -> Iterator[Judgement]:
    """Against the accepted numbers of the same device: a drop that is significantly larger, a latency whose interval
    lies beyond 1.10 x the accepted one, a file that grew by more than 2 %."""
    if not isinstance(accepted.get("accepted"), Mapping) or "device_key" not in accepted:
        raise MeasurementError("the accepted numbers are not such a file", "record them again: `edgecnn gate --record`")
    for measurement in measurements:
        key = measurement.get("device_key")
        if key is not None and key != accepted["device_key"]:
            raise MeasurementError(
                f"the accepted numbers are those of {accepted['device_key']}, this run is from {key}",
                "numbers of different devices are not comparable: record them with `edgecnn gate --record` on this one",
            )
        old = accepted["accepted"].get(measurement["name"])
        if old is None:
            continue
        for fact in SAME:
            if fact in old and measurement.get(fact) not in (None, old[fact]):
                raise MeasurementError(
                    f"{measurement['name']}: accepted on {fact} = {old[fact]}, this run has {measurement[fact]}",
                    "measure on the same images and batches, or record new numbers with `edgecnn gate --record`",
                )
        yield from _drop_regression(measurement, old)
        yield from _growth(measurement, old)


def _drop_regression(measurement: Measurement, old: Mapping[str, Any]) -> Iterator[Judgement]:
    value, interval = measurement.get("top1_drop_pp"), measurement.get("top1_drop_ci_pp")
    before = old.get("top1_drop_pp")
    if value is None or interval is None or before is None:
        return
    low, high = interval
    outcome: Outcome = "FAIL" if low > before else "PASS"
    change = "significantly worse" if outcome == "FAIL" else "no significant change"
    evidence = f"drop {value:.2f} pp [{low:.2f}, {high:.2f}], accepted {before:.2f}: {change}"
    yield Judgement(measurement["name"], "accepted top1_drop_pp", value, (low, high), before, outcome, evidence)


def _growth(measurement: Measurement, old: Mapping[str, Any]) -> Iterator[Judgement]:
    for key, factor in REGRESSION_MAX.items():
        value, before = measurement.get(key), old.get(key)
        if value is None or before is None:
            continue
        interval = measurement.get(f"{key}_ci")
        low, high = interval or (value, value)
        limit = factor * before
        outcome = _outcome_below((low, high), limit)
        evidence = f"{key} {value:.4g}, accepted {before:.4g} ({100 * (value / before - 1):+.1f} %)"
        yield Judgement(
            measurement["name"], f"accepted {key}", value, (low, high) if interval else None, limit, outcome, evidence
        )
