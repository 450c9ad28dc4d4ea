"""Trials of a search, each a line in a file from which a killed one goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from edgecnn.errors import (
    BackendError,
    DeviceError,
    EdgecnnError,
    GraphError,
    MissingPackageError,
    RemoteError,
    WriteError,
)
from edgecnn.records import record_and_problems, to_plain
from edgecnn.results.search import Candidate, ComparedLine, ImageSet, JudgedLine
from edgecnn.tuning.workbench import Kept, Workbench

HERE = (DeviceError, MissingPackageError, RemoteError, WriteError)  # of a machine, and of no graph: a call goes on
Say = Callable[[str], None]


class Log(Protocol):
    """Where trials are kept: its lines are those of before."""

    def __iter__(self) -> Iterator[dict[str, object]]: ...

    def append(self, line: dict[str, object]) -> None:
        """Keep one more."""


class Trials:
    """What was tried before and what is tried now; each is done once. A graph that cannot be made is no reason to stop:
    it is in `failed`, with the reason."""

    def __init__(self, bench: Workbench, log: Log, say: Say, power_sensor: str = "") -> None:
        self.task, self._bench, self._log, self._say = bench.task, bench, log, say
        self.power_sensor = power_sensor
        self._compared: dict[tuple[float, Kept, Candidate, int], ComparedLine] = {}
        self._judged: dict[tuple[ImageSet, Candidate], JudgedLine] = {}
        for content in log:
            compared, problems = record_and_problems(ComparedLine, content)
            if compared is not None and not problems and self._can_be(compared):
                self._know(compared)
            judged, problems = record_and_problems(JudgedLine, content)
            if judged is not None and not problems and self._can_be(judged):
                self._know(judged)

    @property
    def failed(self) -> tuple[str, ...]:
        """What could not be made, and why, a sentence each."""
        lines: tuple[ComparedLine | JudgedLine, ...] = (*self._compared.values(), *self._judged.values())
        return tuple(dict.fromkeys(f"{describe(*line.candidate)}: {line.failed}" for line in lines if line.failed))

    @property
    def judged(self) -> tuple[JudgedLine, ...]:
        """All that was judged on held-out images."""
        return tuple(line for (images, _), line in self._judged.items() if images == "held-out" and not line.failed)

    def judge(self, kept: Kept, images: ImageSet = "held-out", route: str = "") -> JudgedLine:
        """Its predictions on these images beside the float graph's."""
        if (images, (kept, route)) not in self._judged:
            try:
                line = self._bench.by(route).judge(kept, images)
            except (GraphError, BackendError) as exc:
                line = JudgedLine(images=images, kept=kept, route=route, failed=self._reason(exc, route))
            self._keep(line)
            what = line.failed or f"{line.lost} lost, {line.gained} gained of {line.n} {images} images"
            self._say(f"{describe(kept, route)}: {what}")
        return self._judged[images, (kept, route)]

    def compare(
        self, against: Kept, others: Sequence[Kept], seconds: float, route: str = "", nth: int = 0
    ) -> list[ComparedLine]:
        """The latency or the energy of each of `others`, built by the `route`, over that of `against`, built by none:
        those that could be made, in their order. Of several builds of both, each timed anew, the `nth`."""
        known, bench = self._compared, self._bench.by(route, nth)
        new = [kept for kept in dict.fromkeys(others) if (seconds, against, (kept, route), nth) not in known]
        blank = ComparedLine(seconds=seconds, against=against, kept=(), route=route, build=nth)
        for kept in list(new):
            try:
                bench.require_made(kept)
            except (GraphError, BackendError) as exc:
                self._keep(replace(blank, kept=kept, failed=self._reason(exc, route)))
                new.remove(kept)
        for start in range(0, len(new), bench.at_once):
            some = new[start : start + bench.at_once]
            try:
                for line in self._measure(bench, against, some, seconds):
                    self._keep(line)
                    if line.against_joules or route:
                        what = f"{line.ratio:.3f} x the {self.task.objective}, {_between(line.ratio_ci)}"
                        self._say(f"{describe(*line.candidate)}: {what}")
            except BackendError as exc:
                if not route:
                    raise
                self._keep(replace(blank, kept=some[0], failed=self._reason(exc, route)))
        found = [known[seconds, against, (kept, route), nth] for kept in dict.fromkeys(others)]
        return [line for line in found if not line.failed]

    def _measure(
        self, bench: Workbench, against: Kept, others: Sequence[Kept], seconds: float
    ) -> Iterator[ComparedLine]:
        if self.task.objective == "energy":
            for kept in others:
                energy = bench.compare_energy(against, kept, seconds)
                yield ComparedLine(
                    seconds=seconds,
                    against=against,
                    kept=kept,
                    route=bench.route,
                    build=bench.nth,
                    ratio=energy.ratio,
                    ratio_ci=energy.ci,
                    against_joules=energy.against_joules,
                    power_sensor=energy.power_sensor,
                )
            return
        for kept, ratio in bench.compare(against, others, seconds).items():
            yield ComparedLine(
                seconds=seconds,
                against=against,
                kept=kept,
                route=bench.route,
                build=bench.nth,
                ratio=ratio.latency_ratio,
                ratio_ci=ratio.latency_ratio_ci,
                against_ms_p50=ratio.reference_latency_ms_p50 or 0.0,
            )

    def _reason(self, exc: EdgecnnError, route: str) -> str:
        """Why a trial failed; raises what ends the search. The device was enough for the graph by no route: a route
        that asks for more of it has failed alone, while the device still runs what it ran before."""
        if isinstance(exc, HERE) and not (route and isinstance(exc, DeviceError)):
            raise exc
        self._bench.require_device()
        return exc.reason

    def _can_be(self, line: ComparedLine | JudgedLine) -> bool:
        """Whether a search has written this line of an earlier one's: another one is tried again."""
        if line.kept != self.task.in_order(frozenset(line.kept)) or line.route != " ".join(line.route.split()):
            return False
        if line.failed:
            return True
        if isinstance(line, ComparedLine):
            ratios = (line.ratio, *line.ratio_ci)
            known = 0 <= line.against_ms_p50 < math.inf and 0 <= line.against_joules < math.inf
            possible = all(0 < value < math.inf for value in ratios) and line.ratio_ci[0] <= line.ratio_ci[1]
            return possible and known and line.power_sensor == self.power_sensor
        data = self.task.images.held_out if line.images == "held-out" else self.task.images.test
        counted = min(line.lost, line.gained) >= 0 and line.lost + line.gained <= line.n
        return line.n == len(data) and counted and 0 <= line.int8_share_pct <= 100

    def _keep(self, line: ComparedLine | JudgedLine) -> None:
        self._log.append(to_plain(line))
        self._know(line)

    def _know(self, line: ComparedLine | JudgedLine) -> None:
        if isinstance(line, ComparedLine):
            self._compared[line.seconds, line.against, line.candidate, line.build] = line
        else:
            self._judged[line.images, line.candidate] = line


def _between(interval: tuple[float, float]) -> str:
    return "95 % interval [{:.3f}, {:.3f}]".format(*interval)


def describe(kept: Kept, route: str = "") -> str:
    """A graph by what it keeps in float, and the route that it is built by."""
    few = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
    return (f"INT8 but for {few}" if kept else "all INT8") + (f", by {route}" if route else "")
