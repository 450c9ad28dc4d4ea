"""The statistics against published examples and by exact enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgecnn.statistics import (
    Z95,
    binomial_p_at_most,
    difference_interval,
    drop_interval,
    drop_intervals,
    holm_rejects,
    images_for_difference,
    images_for_drop,
    images_for_share,
    mcnemar_p,
    percentile,
    percentile_interval,
    samples_for_percentile,
    wilson_interval,
)


def test_score_interval_solves_tangos_equation() -> None:
    """Both ends solve the score equation, as in the paper, with its constrained estimate by brute force."""
    lost, gained, n = 12, 2, 54

    def score(drop: float) -> float:
        grid = np.linspace(max(0.0, -drop), (1 - drop) / 2, 2_000_001)[1:-1]
        with np.errstate(divide="ignore"):
            likelihood = (
                lost * np.log(grid + drop) + gained * np.log(grid) + (n - lost - gained) * np.log1p(-2 * grid - drop)
            )
        q = float(grid[likelihood.argmax()])
        return (lost - gained - n * drop) / math.sqrt(n * (2 * q + drop * (1 - drop)))

    low, high = drop_interval(lost, gained, n)
    assert score(low) == pytest.approx(Z95, abs=1e-4)
    assert score(high) == pytest.approx(-Z95, abs=1e-4)


def test_score_interval_without_discordant_pairs_has_a_closed_form() -> None:
    for n in (10, 540, 50_000):
        low, high = drop_interval(0, 0, n)
        assert high == pytest.approx(Z95**2 / (n + Z95**2), rel=1e-9)
        assert low == pytest.approx(-high, rel=1e-9)


def test_published_examples() -> None:
    """Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014): airway hyper-responsiveness before and after
    transplantation, 1 and 7 discordant of 21 pairs: -0.286, Tango -0.517 to -0.026, exact McNemar p 0.070."""
    assert drop_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert mcnemar_p(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_score_interval_is_antisymmetric_and_within_one() -> None:
    low, high = drop_interval(40, 0, 40)
    assert 0 < low < 1 == pytest.approx(high)
    assert drop_interval(3, 9, 200) == pytest.approx(tuple(-x for x in reversed(drop_interval(9, 3, 200))))


@pytest.mark.parametrize("n", [200, 1000, 10_000])
@pytest.mark.parametrize("discordance", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_coverage_of_the_score_interval(n: int, discordance: float, share: float) -> None:
    """Exact, over every table that carries probability: the true drop is `share` of the discordance."""
    drop = share * discordance
    p_lost, p_gained = (discordance + drop) / 2, (discordance - drop) / 2
    b, c = (np.arange(int(n * p + 8 * math.sqrt(n * p) + 12)) for p in (p_lost, p_gained))
    b, c = (grid.ravel() for grid in np.meshgrid(b, c))
    table = np.cumsum(np.log(np.maximum(np.arange(n + 1), 1)))  # log factorials
    inside = b + c <= n
    b, c = b[inside], c[inside]
    log_p = table[n] - table[b] - table[c] - table[n - b - c]
    log_p += b * math.log(p_lost) + c * math.log(p_gained) + (n - b - c) * math.log1p(-discordance)
    carries = log_p > math.log(1e-12)
    b, c, p = b[carries], c[carries], np.exp(log_p[carries])
    assert p.sum() == pytest.approx(1, abs=1e-6)
    low, high = drop_intervals(b, c, n)
    coverage = float(p[(low <= drop) & (drop <= high)].sum())
    assert coverage >= 0.933
    if n * discordance >= 5:
        assert coverage <= 0.965


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (6, 0, 2 / 64),
    ],
)
def test_mcnemar_is_the_exact_binomial(lost: int, gained: int, p: float) -> None:
    assert mcnemar_p(lost, gained) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_pairs_stays_finite() -> None:
    assert 0 < mcnemar_p(12_000, 11_000) < 1e-9


def test_wilson_against_published_values() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    for count, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(count, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(7, 7)[1] == 1.0


def test_images_needed_really_settle_and_one_fewer_does_not() -> None:
    lost, gained, n, margin = 12, 6, 500, 0.02
    needed = images_for_drop(lost, gained, n, margin)
    assert needed is not None
    assert needed > n
    for size, settles in ((needed, True), (needed - 1, False)):
        low, high = drop_interval(lost * size / n, gained * size / n, size)
        assert (high <= margin or low > margin) is settles
    assert images_for_drop(0, 0, 100, 0.001) == math.ceil(Z95**2 * 0.999 / 0.001)


def test_a_drop_equal_to_its_margin_is_settled_by_no_number_of_images() -> None:
    assert images_for_drop(10, 0, 500, 0.02) is None
    assert images_for_share(90, 100, 0.9) is None


def test_the_difference_of_two_samples_against_newcombes_table() -> None:
    """Method 10 of table II."""
    for counts, ends in (
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
    ):
        assert difference_interval(*counts) == pytest.approx(ends, abs=5e-5)
    low, high = difference_interval(3, 10, 9, 10)
    assert (-high, -low) == pytest.approx(difference_interval(9, 10, 3, 10))


def test_the_images_that_would_settle_a_difference_do() -> None:
    needed = images_for_difference(970, 1000, 960, 1000, 0.02)
    assert needed is not None
    for n, settled in ((needed, True), (needed // 2, False)):
        low, high = difference_interval(round(0.97 * n), n, round(0.96 * n), n)
        assert (high <= 0.02 or low > 0.02) == settled


@pytest.mark.parametrize(("n", "share"), [(1, 0.5), (10, 0.9), (50, 0.3), (400, 0.97)])
def test_a_binomial_tail_is_the_sum_of_its_terms(n: int, share: float) -> None:
    terms = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    for count in range(n + 1):
        assert binomial_p_at_most(count, n, share) == pytest.approx(sum(terms[: count + 1]), rel=1e-9)
    assert binomial_p_at_most(n - 1, n, 1.0) == 0
    assert binomial_p_at_most(4990, 5000, 0.8) == 1, "the terms there are smaller than the smallest number"
    assert binomial_p_at_most(0, n, 0.0) == 1


def test_holms_procedure_by_hand() -> None:
    """0.010 <= 0.05 / 4, 0.012 <= 0.05 / 3, but 0.030 > 0.05 / 2: what follows is not looked at any more."""
    assert holm_rejects([0.030, 0.010, 0.049, 0.012], 0.05) == [False, True, False, True]
    assert holm_rejects([], 0.05) == []
    assert holm_rejects([0.05], 0.05) == [True]


def test_percentiles_are_trtexecs() -> None:
    samples = np.arange(1.0, 101.0)
    assert percentile(samples, 50) == 50.5
    assert [percentile(samples, p) for p in (90, 95, 99)] == [90.0, 95.0, 99.0]
    assert percentile(np.array([3.0]), 99) == 3.0


def test_samples_that_carry_a_percentile() -> None:
    """MLPerf inference's minimum query counts for early stopping."""
    assert samples_for_percentile(90) == 64
    assert samples_for_percentile(99) == 662
    assert 64 < samples_for_percentile(95) < 662


def test_percentile_interval_covers() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = percentile_interval(np.sort(rng.random(800)), 99)
        assert high is not None
        hits += low <= 0.99 <= high
    assert 0.92 <= hits / 400 <= 0.99
    assert percentile_interval(np.sort(rng.random(100)), 99)[1] is None
