"""Against numbers that were accepted before on the same device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecnn.errors import MeasurementError
from edgecnn.gate.rules.rule import outcome_below
from edgecnn.results.baseline import Baseline, BaselineRow
from edgecnn.results.device import Device
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome

LATENCY_MAX, SIZE_MAX = 1.10, 1.02  # times the baseline's


def baseline_of(measurements: Sequence[Measurement], device: Device) -> Baseline:
    """What `gate --record` writes: the numbers that a later run is held against. A simulated engine has no latency."""
    return Baseline(device.key, {m.name: _row(m) for m in measurements})


def _row(m: Measurement) -> BaselineRow:
    accuracy, latency = m.accuracy, None if m.engine.simulated else m.latency
    return BaselineRow(
        data=accuracy.data if accuracy else "",
        n=accuracy.n if accuracy else None,
        batch=latency.batch if latency else None,
        mode=latency.mode if latency else "",
        top1_pct=accuracy.top1_pct if accuracy else None,
        top5_pct=accuracy.top5_pct if accuracy else None,
        top1_drop_pp=accuracy.top1_drop_pp if accuracy else None,
        agreement_pct=accuracy.agreement_pct if accuracy else None,
        latency_ms_p50=latency.latency_ms_p50 if latency else None,
        size_mb=m.facts.size_mb if m.facts else None,
    )


def check_regressions(
    measurements: Sequence[Measurement], baseline: Baseline, device: Device | None
) -> Iterator[Check]:
    """A drop that is significantly larger than the baseline's, a latency whose interval lies beyond 1.10 times its, a
    file that grew by more than 2 %. Raises `MeasurementError` for numbers that cannot be compared."""
    if device and device.key != baseline.device_key:
        raise MeasurementError(
            f"the baseline is that of {baseline.device_key}, this run is from {device.key}",
            "numbers of different devices are not comparable: record them with `edgecnn gate --record` on this one",
        )
    for m in measurements:
        old = baseline.engines.get(m.name)
        if old is not None:
            _require_same(m, old)
            yield from _check_drop(m, old)
            yield from _check_growth(m, old)


def _require_same(m: Measurement, old: BaselineRow) -> None:
    new = _row(m)
    for fact in ("data", "n", "batch", "mode"):
        before, now = getattr(old, fact), getattr(new, fact)
        if before and now and before != now:
            raise MeasurementError(
                f"{m.name}: the baseline has {fact} = {before}, this run has {now}",
                "measure on the same images and batches, or record new numbers with `edgecnn gate --record`",
            )


def _check_drop(m: Measurement, old: BaselineRow) -> Iterator[Check]:
    drop = m.accuracy.top1 if m.accuracy else None
    before = old.top1_drop_pp
    if drop is None or drop.drop_pp is None or drop.drop_ci_pp is None or before is None:
        return
    low, high = drop.drop_ci_pp
    outcome: Outcome = "FAIL" if low > before else "PASS"
    change = "significantly worse" if outcome == "FAIL" else "no significant change"
    evidence = f"drop {drop.drop_pp:.2f} pp [{low:.2f}, {high:.2f}], baseline {before:.2f}: {change}"
    yield Check(m.name, "baseline top1_drop_pp", drop.drop_pp, (low, high), before, outcome, evidence)


def _check_growth(m: Measurement, old: BaselineRow) -> Iterator[Check]:
    new = _row(m)
    interval = m.latency.latency_ms_p50_ci if m.latency else None
    for key, factor, ends in (("latency_ms_p50", LATENCY_MAX, interval), ("size_mb", SIZE_MAX, None)):
        value, before = getattr(new, key), getattr(old, key)
        if value is None or before is None:
            continue
        limit, (low, high) = factor * before, ends or (value, value)
        evidence = f"{key} {value:.4g}, baseline {before:.4g} ({100 * (value / before - 1):+.1f} %)"
        yield Check(m.name, f"baseline {key}", value, ends, limit, outcome_below((low, high), limit), evidence)
