"""Queries as they come in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgecnn.measure.stability import Floats
from edgecnn.results.latency import Clocks
from edgecnn.session import Timing

CLOCK_PERIOD_S = 0.5


@dataclass(frozen=True)
class Stretch:
    """Time by the host's clock (`time.perf_counter`) in which nothing but so many queries ran."""

    start_s: float
    end_s: float
    queries: int


@dataclass
class Samples:
    """`wall_s` from the start of the first query that is kept to the end of the last, but for the reading of clocks;
    `enqueue_ms` the host's time to enqueue each, where it is told apart."""

    timings: list[Timing] = field(default_factory=list)
    clocks: list[Clocks] = field(default_factory=list)
    yardstick_ms: list[float] = field(default_factory=list)
    enqueue_ms: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    load_cores: float | None = None
    stretches: list[Stretch] = field(default_factory=list)

    def ms(self) -> Floats:
        """Latencies."""
        return np.array([t.latency_ms for t in self.timings])
