"""Whether latencies can be compared with those of another day: what the machine did while they were measured.

A query that the scheduler put off tells of the machine, not of the engine; so nothing here looks at the slowest one.
The run is cut into parts, and what counts is how the medians of the parts differ.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from edgecnn.statistics import percentile, percentile_interval

Floats = npt.NDArray[np.float64]

PARTS = 20
PART_COV_PCT = 5.0
OTHER_LOAD_CORES = 0.25
YARDSTICK = np.linspace(0.0, 1.0, 16_384)
YARDSTICK_TIMES = 9


def median_interval(ms: Floats) -> tuple[float, float | None]:
    """95 % interval of the median of latencies in the order in which they were measured.

    Successive queries share the machine's state, which an interval that takes them for independent does not know: where
    there are enough, it is that of the medians of successive parts (the sign test's), widened to hold the other.
    """
    low, high = percentile_interval(np.sort(ms), 50)
    medians = _medians_of_parts(ms)
    if medians is None:
        return low, high
    part_low, part_high = percentile_interval(np.sort(medians), 50)
    return min(low, part_low), None if high is None or part_high is None else max(high, part_high)


def part_cov_pct(ms: Floats) -> float | None:
    """Coefficient of variation of the medians of twenty successive parts, by their quartiles (0.7413 times the
    interquartile range is a normal distribution's standard deviation): a few parts that were disturbed move neither it
    nor the median of the run. None for a run too short to have parts."""
    medians = _medians_of_parts(ms)
    if medians is None:
        return None
    low, middle, high = np.percentile(medians, [25, 50, 75])
    return float(100 * 0.7413 * (high - low) / middle)


def _medians_of_parts(ms: Floats) -> Floats | None:
    if len(ms) < 3 * PARTS:
        return None
    return np.array([np.median(part) for part in np.array_split(ms, PARTS)])


def find_instability(ms: Floats, load_cores: float | None) -> list[str]:
    """What latencies in ms, in the order in which they were measured, and the load by others say against them."""
    found = []
    cov = part_cov_pct(ms)
    if cov is not None and cov > PART_COV_PCT:
        found.append(f"the median moved during the run: its coefficient of variation over {PARTS} parts is {cov:.1f} %")
    if load_cores is not None and load_cores > OTHER_LOAD_CORES:
        found.append(f"other work took {load_cores:.2f} cores during the run")
    return found


def time_yardstick() -> float:
    """Milliseconds that a fixed piece of work takes on one core now: what slows it down slows every engine down, and is
    no regression of one."""
    ms = []
    for _ in range(YARDSTICK_TIMES):
        start = time.perf_counter_ns()
        np.sin(YARDSTICK).sum()
        ms.append((time.perf_counter_ns() - start) / 1e6)
    return percentile(np.sort(ms), 50)
