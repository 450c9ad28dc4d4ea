"""The energy of one engine over another's, from pairs of runs whose joules are known."""

from __future__ import annotations

import pytest

from edgecnn.errors import MeasurementError
from edgecnn.measure.energy_ratio import energy_ratio
from tests.fakes.measurements import energy


def test_the_interval_holds_the_ratio_of_each_pair_whatever_both_drift_by() -> None:
    """The second pair takes half as much again: the ratio is the same, and a mean over an early run is not."""
    ours = energy(0.05, (0.049, 0.051)), energy(0.075, (0.074, 0.076))
    theirs = energy(0.10, (0.098, 0.102)), energy(0.15, (0.149, 0.151))
    found = energy_ratio(ours, theirs)
    assert found.ratio == pytest.approx(0.5)
    assert found.ci == pytest.approx((0.049 / 0.102, 0.051 / 0.098))
    assert found.against_joules == pytest.approx(0.125)
    assert found.power_sensor == "VDD_IN by INA3221 (hwmon)"
    one_of_them_moved = energy_ratio((ours[0], energy(0.09, (0.089, 0.091))), theirs)
    assert one_of_them_moved.ci[1] == pytest.approx(0.091 / 0.149)


@pytest.mark.parametrize("unresolved", [energy(0.01, None), energy(0.01, (-0.001, 0.021)), energy(0.01, (0.0, 0.02))])
@pytest.mark.parametrize("ours", [True, False])
def test_what_cannot_be_told_from_idle_power_has_no_ratio(unresolved: object, ours: bool) -> None:
    good = energy(0.1, (0.09, 0.11))
    pairs = ((unresolved, good), (good, good)) if ours else ((good, good), (good, unresolved))
    with pytest.raises(MeasurementError, match=r"cannot be told from the idle power: 5\.00 W while"):
        energy_ratio(*pairs)  # type: ignore[arg-type]
