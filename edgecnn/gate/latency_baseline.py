"""A latency against the one that was accepted before on the same device.

Both were measured on their own day. A FAIL says that the engine became slower, so it takes two stable measurements, on
a machine that was as fast as then; whatever else is beyond the limit is INCONCLUSIVE. A PASS says that it did not, so
it holds at the speed that the machine had then too. Where several builds were accepted, one that is no slower than the
slowest of them did not become slower.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgecnn.results.baseline import BaselineRow
from edgecnn.results.engine import CPU_PROVIDER
from edgecnn.results.latency import Latency
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome

LATENCY_MAX = 1.10  # times the baseline's
MACHINE_PCT = 3.0  # a machine that is slower by more than this is not as fast as then


def check_latency(m: Measurement, old: BaselineRow) -> Iterator[Check]:
    """The median of an engine; none of a simulated one, nor where one of the two was not measured."""
    found, before = m.latency, old.latency_ms_p50
    if found is None or before is None or m.engine.simulated:
        return
    (low, high), (old_low, old_high) = found.latency_ms_p50_ci, old.latency_ms_p50_ci or (before, before)
    slowest = old.latency_ms_p50_band[1] if old.latency_ms_p50_band else None
    value, limit, good = found.latency_ms_p50, LATENCY_MAX * before, LATENCY_MAX * old_low
    evidence = f"latency_ms_p50 {value:.4g}, baseline {before:.4g} ({100 * (value / before - 1):+.1f} %)"
    if slowest is not None:
        limit, good, old_high = max(limit, slowest), max(good, slowest), max(old_high or slowest, slowest)
        evidence += f", whose slowest build took {slowest:.4g}"
    outcome: Outcome = "INCONCLUSIVE"
    faster = _faster_machine(m, found, old)
    if high is not None and high <= good:
        outcome = "PASS" if high * faster <= good else "INCONCLUSIVE"
        if outcome != "PASS":
            evidence += f"; the machine was {100 * (faster - 1):.1f} % faster than at the baseline, which may hide it"
    elif old_high is not None and low > LATENCY_MAX * old_high:
        outcome = "FAIL"
    else:
        evidence += "; a longer bench.duration_s tells more"
    if against := [*_against_baseline(old), *(_against_run(m, found, old) if outcome != "PASS" else ())]:
        outcome, evidence = "INCONCLUSIVE", f"{evidence}; {'; '.join(against)}"
    yield Check(m.name, "baseline latency_ms_p50", value, (low, high), limit, outcome, evidence)


def _against_baseline(old: BaselineRow) -> list[str]:
    """Why the baseline is none: one that was too slow would let everything pass."""
    if not old.latency_unstable:
        return []
    why = "; ".join(old.latency_unstable)
    return [f"the baseline was unstable ({why}): record it again with `edgecnn gate --record`"]


def _faster_machine(m: Measurement, found: Latency, old: BaselineRow) -> float:
    """How many times faster than at the baseline the machine was, by what the queries ran on: its processor, or its
    GPU's clock; 1 where it was not."""
    then, now = old.gpu_mhz, found.clocks.gpu_mhz
    if m.engine.provider == CPU_PROVIDER:
        then, now = found.yardstick_ms, old.yardstick_ms  # ms: the other way round
    return max(1.0, now / then) if then and now else 1.0


def _against_run(m: Measurement, found: Latency, old: BaselineRow) -> list[str]:
    """Why a latency beyond the limit may be the machine's doing. Below it nothing of this matters: what disturbs a
    measurement makes it slower."""
    said = list(found.unstable)
    if old.yardstick_ms and found.yardstick_ms:
        slower = 100 * (found.yardstick_ms / old.yardstick_ms - 1)
        if slower > MACHINE_PCT:
            said.append(f"the processor itself was {slower:.1f} % slower than at the baseline")
    now = found.clocks.gpu_mhz
    if m.engine.provider != CPU_PROVIDER and old.gpu_mhz and now and 100 * (1 - now / old.gpu_mhz) > MACHINE_PCT:
        said.append(f"the GPU clock was {now:.0f} MHz, {old.gpu_mhz:.0f} at the baseline")
    return said
