"""The seconds of a measurement, as its progress counts them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from edgecnn.measure.latency import clock_reader
from edgecnn.recipe.schema import BenchSettings
from edgecnn.results.latency import Clocks
from edgecnn.session import Session

SHORTEST_TOLD_S = 3.0

Progress = Callable[[int, int], None]


class Planned:
    """Tells `progress` of seconds gone and planned: `runs` of so long each. Told is when clocks are read, for then no
    query runs."""

    def __init__(self, progress: Progress | None, settings: BenchSettings, runs: int) -> None:
        seconds = runs * (settings.duration_s + settings.warmup_ms / 1000)
        self._progress = progress if seconds > SHORTEST_TOLD_S else None
        self._seconds, self._start = math.ceil(seconds), 0.0

    def clocks(self, *sessions: Session) -> Callable[[], Clocks]:
        """What reads the clocks while `sessions` are measured."""
        read = clock_reader(max(session.info.pci_bus_id for session in sessions))

        def told() -> Clocks:
            self._start = self._start or time.monotonic()
            if self._progress is not None:
                self._progress(min(int(time.monotonic() - self._start), self._seconds - 1), self._seconds)
            return read()

        return told

    def finish(self) -> None:
        """Nothing is left to measure."""
        if self._progress is not None:
            self._progress(self._seconds, self._seconds)
