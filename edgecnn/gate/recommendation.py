"""Which of two INT8 engines of a target to ship: the explicit one, or the one that TensorRT placed by itself."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Verdict


def recommended_int8(measurements: Sequence[Measurement], verdict: Verdict) -> str:
    """A sentence that names the faster of those that pass, with why; "" where there are not two to choose from.

    Faster is the one whose interval of the latency ratio lies below the other's: both were timed in turn with the same
    reference. Otherwise it is the explicit one, whose precision no other build can change.
    """
    int8 = {m.engine.scheme: m for m in measurements if m.engine.precision_requested == "int8"}
    explicit, implicit = int8.get("tensorrt"), int8.get("implicit")
    if explicit is None or implicit is None:
        return ""
    passing = [m for m in (explicit, implicit) if _passes(m, verdict)]
    if not passing:
        return f"neither {explicit.name} nor {implicit.name} passes: none is recommended"
    if len(passing) == 1:
        other = implicit if passing[0] is explicit else explicit
        return f"{passing[0].name} is recommended: {other.name} does not pass"
    ratios = [m.ratio.latency_ratio_ci if m.ratio else None for m in (explicit, implicit)]
    references = {m.ratio.latency_reference for m in (explicit, implicit) if m.ratio}
    if None in ratios or len(references) != 1:
        return f"{explicit.name} is recommended: the two were not timed in turn, and its precision is the graph's"
    (low, high), (least, most) = (r for r in ratios if r)
    shown = f"[{least:.3f}, {most:.3f}] of {references.pop()} against [{low:.3f}, {high:.3f}] of {explicit.name}"
    if most < low:
        return f"{implicit.name} is recommended: both pass, and it is the faster, {shown}"
    if high < least:
        return f"{explicit.name} is recommended: both pass, and it is the faster; {implicit.name} is {shown}"
    return (
        f"{explicit.name} is recommended: both pass, neither is measurably faster ({implicit.name} {shown}), and its "
        "precision is the graph's"
    )


def _passes(measurement: Measurement, verdict: Verdict) -> bool:
    own = [verdict.counts_as(check) for check in verdict.checks if check.name in (measurement.name, "all")]
    return bool(own) and set(own) == {"PASS"}
