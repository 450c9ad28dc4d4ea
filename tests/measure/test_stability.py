"""When a latency can be compared with that of another day: on series whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgecnn.measure.stability import find_instability, median_interval, part_cov_pct, time_yardstick
from edgecnn.statistics import percentile_interval


def noise(n: int = 1000, seed: int = 0) -> np.ndarray:
    """Latencies around 1 ms."""
    return np.random.default_rng(seed).normal(1.0, 0.02, n)


def test_a_steady_run_is_stable_and_few_slow_queries_do_not_change_that() -> None:
    ms = noise()
    assert find_instability(ms, 0.1) == []
    assert find_instability(ms, None) == []
    ms[::50] = 500.0  # put off by the scheduler: the coefficient of variation of the queries is 600 %
    assert ms.std() / ms.mean() > 5
    assert find_instability(ms, 0.1) == []
    ms = noise()
    ms[300:400] = 5.0  # the machine stood still for two parts of twenty
    assert find_instability(ms, 0.1) == []
    low, high = median_interval(ms)
    assert 0.98 < low < 1.0 < (high or 2) < 1.02


def test_a_run_that_changes_its_speed_is_not() -> None:
    ms = noise()
    ms[600:] *= 1.2
    (why,) = find_instability(ms, 0.0)
    assert "the median moved during the run" in why


def test_other_work_is_said() -> None:
    assert find_instability(noise(), 0.9) == ["other work took 0.90 cores during the run"]


def test_the_interval_of_a_median_knows_that_neighbors_are_alike() -> None:
    """An autocorrelated series, AR(1) with 0.99: the interval of independent samples mostly misses its median."""
    plain = ours = 0
    for seed in range(200):
        rng, ms, level = np.random.default_rng(seed), np.empty(1000), 0.0
        steps = rng.normal(0, 0.01, 1000)
        for k in range(1000):
            level = 0.99 * level + steps[k]
            ms[k] = 1.0 + level
        low, high = percentile_interval(np.sort(ms), 50)
        plain += high is not None and low <= 1.0 <= high
        low, high = median_interval(ms)
        ours += high is not None and low <= 1.0 <= high
    assert plain < 60
    assert ours > 2 * plain


def test_few_queries_have_the_interval_of_independent_ones() -> None:
    ms = noise(59)
    assert part_cov_pct(ms) is None
    assert median_interval(ms) == percentile_interval(np.sort(ms), 50)


def test_the_yardstick_takes_time() -> None:
    assert 0.001 < time_yardstick() < 1000


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_nothing_depends_on_the_unit(scale: float) -> None:
    ms = noise()
    assert part_cov_pct(scale * ms) == pytest.approx(part_cov_pct(ms))
