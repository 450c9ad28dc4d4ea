"""What a search for the best graph within a budget of accuracy tried, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT
from edgecnn.results.accuracy import Interval
from edgecnn.results.engine import Scheme

Objective = Literal["latency", "coverage", "energy"]
Answer = Literal["int8", "float", "none"]
ImageSet = Literal["held-out", "test"]
Candidate = tuple[tuple[str, ...], str]  # the nodes that a graph keeps in float, and the route that it is built by


@dataclass(frozen=True, kw_only=True)
class ComparedLine:
    """One comparison that is done: the median latency, or the energy of a query, of the graph that keeps the nodes
    `kept` in float over that of the one that keeps `against`, in turn for `seconds` each, with its 95 % interval; what
    the latter's is, in ms, or in J by the `power_sensor`. The former is built by the build `route`, the latter by none;
    of several builds of both that were timed anew it is the `build`th. Where it could not be made, `failed` says why.
    """

    __pydantic_config__ = STRICT

    seconds: float
    against: tuple[str, ...]
    kept: tuple[str, ...]
    route: str = ""
    build: int = 0
    ratio: float = 1.0
    ratio_ci: Interval = (1.0, 1.0)
    against_ms_p50: float = 0.0
    against_joules: float = 0.0
    power_sensor: str = ""
    failed: str = ""

    @property
    def candidate(self) -> Candidate:
        """What was made."""
        return self.kept, self.route


@dataclass(frozen=True, kw_only=True)
class JudgedLine:
    """One graph that was judged, built by the build `route` where one is named: of `n` labelled images, `lost` are
    right in the float graph alone, `gained` in this one alone. Where it could not be made, `failed` says why."""

    __pydantic_config__ = STRICT

    images: ImageSet
    kept: tuple[str, ...]
    route: str = ""
    n: int = 0
    lost: int = 0
    gained: int = 0
    int8_share_pct: float = 0.0
    failed: str = ""

    @property
    def candidate(self) -> Candidate:
        """What was made."""
        return self.kept, self.route


@dataclass(frozen=True, kw_only=True)
class SearchPoint:
    """One graph that was tried: the nodes `kept` in float (every one that can be INT8: `all_float`), built by the build
    `route` where one is named.

    `top1_drop_pp` with its 95 % interval is that on the `n` held-out images; `expected_bound_pp` is the upper end of
    the interval that as many images as the verdict has would give with the same shares. `test_*` are those on the test
    images, None where it was not looked at there. Latencies are medians, energies those of a query above idle; ratios
    are to the float graph; None where none was measured.
    """

    __pydantic_config__ = STRICT

    kept: tuple[str, ...]
    all_float: bool
    int8_share_pct: float
    n: int
    top1_drop_pp: float
    top1_drop_ci_pp: Interval
    expected_bound_pp: float
    latency_ratio: float | None = None
    latency_ratio_ci: Interval | None = None
    latency_ms_p50: float | None = None
    test_n: int | None = None
    test_top1_drop_pp: float | None = None
    test_top1_drop_ci_pp: Interval | None = None
    energy_ratio: float | None = None
    energy_ratio_ci: Interval | None = None
    joules_per_inference: float | None = None
    route: str = ""

    @property
    def candidate(self) -> Candidate:
        """What was made."""
        return self.kept, self.route

    @property
    def ratio(self) -> float | None:
        """Of whichever was measured."""
        return self.latency_ratio if self.energy_ratio is None else self.energy_ratio


@dataclass(frozen=True, kw_only=True)
class Search:
    """What was found: INT8 with the nodes `kept` in float, "float" (all of it), or "none" that keeps the budget.

    The upper end of the 95 % interval of the top-1 drop is to be at most `max_drop_pp`, on `n` test images, which chose
    nothing; `held_out_n` others chose among the graphs, `calibration_n` others made them. `output` is the file of the
    answer ("" for none), `around` the precision of what is not INT8. `latency_threads` and `latency_batch` are those of
    every latency and energy; with the objective "coverage" there are none, and on a device no threads. Energies are
    those of `power_sensor`, above idle. `build_route` is that by which the answer is to be built ("": by none), found
    among `routes_tried` of the `routes_known`. `batch_is_frozen`: the graph takes that batch alone.
    """

    __pydantic_config__ = STRICT

    graph: str
    graph_sha256: str
    target: str
    scheme: Scheme
    method: str
    around: Literal["fp16", "fp32"]
    objective: Objective
    max_drop_pp: float
    data: str
    calibration_n: int
    held_out_n: int
    n: int
    answer: Answer
    output: str
    kept: tuple[str, ...]
    int8_share_pct: float | None
    top1_drop_pp: float | None
    top1_drop_ci_pp: Interval | None
    latency_ratio: float | None
    latency_ratio_ci: Interval | None
    latency_ms_p50: float | None
    latency_batch: int | None
    latency_threads: int | None
    points: tuple[SearchPoint, ...]
    failed: tuple[str, ...]
    energy_ratio: float | None = None
    energy_ratio_ci: Interval | None = None
    joules_per_inference: float | None = None
    power_sensor: str = ""
    build_route: str = ""
    routes_tried: int = 0
    routes_known: int = 0
    batch_is_frozen: bool = False

    @property
    def candidate(self) -> Candidate:
        """The answer, where there is one."""
        return self.kept, self.build_route
