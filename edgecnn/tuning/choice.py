"""From the graphs that were tried to the one that the test images prove."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecnn.results.search import ComparedLine, JudgedLine
from edgecnn.statistics import drop_interval
from edgecnn.tuning.budget import Budget
from edgecnn.tuning.trials import Trials
from edgecnn.tuning.workbench import Kept

LONGEST = 4  # graphs that the test images are asked about, the float graph apart
# Of each, in turn, once they are chosen: what was chosen for a short run looks better than it is.
SECONDS = {"latency": 3.0, "energy": 10.0}


@dataclass(frozen=True)
class Chosen:
    """What the test images proved (None: not even the float graph), what they were asked about, and the latencies or
    energies of these over the float graph's."""

    answer: JudgedLine | None
    asked: dict[Kept, JudgedLine]
    compared: dict[Kept, ComparedLine]


def find_front(
    lines: Sequence[JudgedLine], cost: Callable[[Kept], float], bound: Callable[[JudgedLine], float]
) -> list[JudgedLine]:
    """Those that no cheaper one is as safe as, the cheapest first. Of two that the images tell no difference of, the
    one with more in float is taken for the safer: on images that trained the network INT8 may lose nothing at all.
    """
    front: list[JudgedLine] = []
    for line in sorted(lines, key=lambda line: (cost(line.kept), bound(line), len(line.kept))):
        if not front or (bound(line), -len(line.kept)) < (bound(front[-1]), -len(front[-1].kept)):
            front.append(line)
    return front


def choose(trials: Trials, budget: Budget, most: float, costs: dict[Kept, float]) -> Chosen:
    """The cheapest graph whose drop on the test images has its upper 95 % bound within `most`, a proportion.

    The order of the hypotheses is fixed before the first test image is looked at: the float graph, then the front from
    the safest graph to the cheapest; each is tested at the full level, and the first that fails ends it. So the
    probability that the answer breaks the budget is that of a single test (Maurer, Hothorn and Lehmacher, in: Testing
    Principles in Clinical and Preclinical Trials, 1995), however many graphs were tried on the held-out images.
    """
    task = trials.task
    plain = task.all_float
    lines = [line for line in trials.judged if line.kept in costs and line.kept != plain]
    lines = [line for line in lines if budget.holds(line.kept) and costs[line.kept] < costs[plain]]
    front = _spread(find_front(lines, costs.__getitem__, budget.bound))
    compared: dict[Kept, ComparedLine] = {}
    if task.measures and front:
        seconds = SECONDS[task.objective]
        compared = {line.kept: line for line in trials.compare(plain, [line.kept for line in front], seconds)}
        fresh = {kept: line.ratio for kept, line in compared.items() if line.ratio < 1}
        front = find_front([line for line in front if line.kept in fresh], fresh.__getitem__, budget.bound)
    asked: dict[Kept, JudgedLine] = {}
    answer = None
    for kept in (plain, *(line.kept for line in reversed(front))):
        asked[kept] = trials.judge(kept, "test")
        if not proves(asked[kept], most):
            break
        answer = asked[kept]
    return Chosen(answer, asked, compared)


def proves(line: JudgedLine, most: float) -> bool:
    """Whether the upper end of the 95 % interval of its drop is at most `most`."""
    return not line.failed and drop_interval(line.lost, line.gained, line.n)[1] <= most


def _spread(front: list[JudgedLine]) -> list[JudgedLine]:
    """At most `LONGEST` of them, the cheapest and the safest among these."""
    if len(front) <= LONGEST:
        return front
    last = len(front) - 1
    return [front[round(k * last / (LONGEST - 1))] for k in range(LONGEST)]
