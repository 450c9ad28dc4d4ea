"""What a run took of electric power, and a query of energy."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True, kw_only=True, repr=False)
class Energy:
    """Power in watts and energy in joules of the queries of one run, by a `power_sensor`.

    `power_rails` are those that are added up; `power_w_by_rail` also has what is a part of them. `power_w` is the mean
    while queries ran, `idle_power_w` that of the engine loaded and nothing queued, over a while before and a while
    after the run. An inference is one query of the run's batch, and `joules_per_inference` is what it took above idle:
    (power_w - idle_power_w) times the time of a query; `joules_per_inference_with_idle` is the whole.
    The intervals (95 %) are Student's t over `energy_blocks` successive blocks of the run, widened by that of the idle
    power, which spans what it was before and after; None for a run of one block. `power_sampling_pct` is the share of
    the run for which the sensor was being read beside the queries.
    """

    __pydantic_config__ = STRICT

    power_sensor: str
    power_rails: tuple[str, ...]
    power_w: float
    power_w_by_rail: dict[str, float]
    idle_power_w: float
    idle_power_w_before: float
    idle_power_w_after: float
    joules_per_inference: float
    joules_per_inference_ci: tuple[float, float] | None
    joules_per_inference_with_idle: float
    joules_per_1000_images: float
    joules_per_1000_images_ci: tuple[float, float] | None
    energy_blocks: int
    power_samples: int
    power_sampling_pct: float

    def __repr__(self) -> str:
        return f"Energy({self.in_words})"

    @property
    def in_words(self) -> str:
        """Power, idle power and energy, with what was read and what it leaves out."""
        interval = "" if self.joules_per_inference_ci is None else " [{:.4g}, {:.4g}]".format(
            *self.joules_per_inference_ci
        )  # fmt: skip
        many = "" if self.joules_per_1000_images_ci is None else " [{:.4g}, {:.4g}]".format(
            *self.joules_per_1000_images_ci
        )  # fmt: skip
        return (
            f"{self.power_w:.2f} W while queries ran, {self.idle_power_w:.2f} W idle, which is taken off: "
            f"{self.joules_per_inference:.4g} J per inference{interval}, "
            f"{self.joules_per_1000_images:.4g} J per 1000 images{many}; with idle "
            f"{self.joules_per_inference_with_idle:.4g} J per inference"
        )

    @property
    def sensor_with_rails(self) -> str:
        """The sensor, and which of its rails are added up."""
        return f"{' + '.join(self.power_rails)} by {self.power_sensor}"

    @property
    def source(self) -> str:
        """Which sensor and rails, how often, and that a meter at the wall reads more."""
        return (
            f"{self.sensor_with_rails}, {self.power_samples} readings "
            f"({self.power_sampling_pct:.2f} % of the run); a meter at the wall reads more"
        )
