"""Latency and size against those that were accepted before on the same device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecnn.errors import MeasurementError
from edgecnn.gate.latency_baseline import check_latency
from edgecnn.results.baseline import Baseline, BaselineRow
from edgecnn.results.device import Device
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check

SIZE_MAX = 1.02  # times the baseline's


def baseline_of(measurements: Sequence[Measurement], device: Device) -> Baseline:
    """What `gate --record` writes: the numbers that a later run is held against. A simulated engine has no latency."""
    return Baseline(device.key, {m.name: _row(m) for m in measurements})


def _row(m: Measurement) -> BaselineRow:
    latency = None if m.engine.simulated else m.latency
    return BaselineRow(
        batch=latency.batch if latency else None,
        mode=latency.mode if latency else "",
        latency_ms_p50=latency.latency_ms_p50 if latency else None,
        latency_ms_p50_ci=latency.latency_ms_p50_ci if latency else None,
        latency_ms_p50_band=m.rebuilds.band_ms if latency and m.rebuilds else None,
        latency_unstable=latency.unstable if latency else (),
        yardstick_ms=latency.yardstick_ms if latency else None,
        gpu_mhz=latency.clocks.gpu_mhz if latency else None,
        size_mb=m.facts.size_mb if m.facts else None,
    )


def unstable_latencies(measurements: Sequence[Measurement]) -> Iterator[str]:
    """Which of the latencies in a baseline will judge nothing, and why."""
    for m in measurements:
        if why := _row(m).latency_unstable:
            yield f"{m.name}: its latency was unstable ({'; '.join(why)}) and judges nothing: measure and record again"


def check_regressions(
    measurements: Sequence[Measurement], baseline: Baseline, device: Device | None
) -> Iterator[Check]:
    """A latency whose interval lies beyond 1.10 times the baseline's, a file that grew by more than 2 %. Raises
    `MeasurementError` for numbers that cannot be compared."""
    if device and device.key != baseline.device_key:
        raise MeasurementError(
            f"the baseline is that of {baseline.device_key}, this run is from {device.key}",
            "numbers of different devices are not comparable: record them with `edgecnn gate --record` on this one",
        )
    for m in measurements:
        old = baseline.engines.get(m.name)
        if old is not None:
            _require_same(m, old)
            yield from check_latency(m, old)
            yield from _check_growth(m, old)


def _require_same(m: Measurement, old: BaselineRow) -> None:
    new = _row(m)
    for fact, again in (("batch", "measure with the same batch, or "), ("mode", "")):
        before, now = getattr(old, fact), getattr(new, fact)
        if before and now and before != now:
            raise MeasurementError(
                f"{m.name}: the baseline has {fact} = {before}, this run has {now}",
                f"{again}record new numbers with `edgecnn gate --record`",
            )


def _check_growth(m: Measurement, old: BaselineRow) -> Iterator[Check]:
    value, before = m.figure("size_mb"), old.size_mb
    if value is None or before is None:
        return
    limit = SIZE_MAX * before
    evidence = f"size_mb {value:.4g}, baseline {before:.4g} ({100 * (value / before - 1):+.1f} %)"
    yield Check(m.name, "baseline size_mb", value, None, limit, "PASS" if value <= limit else "FAIL", evidence)
