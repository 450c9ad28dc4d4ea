"""From the graphs that were tried to the one that the test images prove."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecnn.results.search import Candidate, ComparedLine, JudgedLine
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
    asked: dict[Candidate, JudgedLine]
    compared: dict[Candidate, ComparedLine]


def find_front(
    lines: Sequence[JudgedLine], cost: Callable[[Candidate], float], bound: Callable[[JudgedLine], float]
) -> list[JudgedLine]:
    """Those that no cheaper one is as safe as, the cheapest first. Of two that the images tell no difference of, the
    one with more in float is taken for the safer, and then the one that is built by no route: on images that trained
    the network INT8 may lose nothing at all.
    """

    def risk(line: JudgedLine) -> tuple[float, int, bool]:
        return bound(line), -len(line.kept), bool(line.route)

    front: list[JudgedLine] = []
    for line in sorted(lines, key=lambda line: (cost(line.candidate), bound(line), len(line.kept))):
        if not front or risk(line) < risk(front[-1]):
            front.append(line)
    return front


def choose(trials: Trials, budget: Budget, most: float, costs: dict[Candidate, float]) -> Chosen:
    """The cheapest graph whose drop on the test images has its upper 95 % bound within `most`, a proportion.

    The order of the hypotheses is fixed before the first test image is looked at: the float graph, then the front from
    the safest graph to the cheapest; each is tested at the full level, and the first that fails ends it. So the
    probability that the answer breaks the budget is that of a single test (Maurer, Hothorn and Lehmacher, in: Testing
    Principles in Clinical and Preclinical Trials, 1995), however many graphs were tried on the held-out images.
    """
    task = trials.task
    plain: Candidate = (task.all_float, "")
    lines = [line for line in trials.judged if line.candidate in costs and line.candidate != plain]
    lines = [line for line in lines if budget.allows(line) and costs[line.candidate] < costs[plain]]
    front = _spread(find_front(lines, costs.__getitem__, budget.bound))
    compared: dict[Candidate, ComparedLine] = {}
    if task.measures and front:
        by_route: dict[str, list[Kept]] = {}
        for line in front:
            by_route.setdefault(line.route, []).append(line.kept)
        for route, several in by_route.items():
            found = trials.compare(task.all_float, several, SECONDS[task.objective], route)
            compared |= {line.candidate: line for line in found}
        fresh = {candidate: line.ratio for candidate, line in compared.items() if line.ratio < 1}
        front = find_front([line for line in front if line.candidate in fresh], fresh.__getitem__, budget.bound)
    asked: dict[Candidate, JudgedLine] = {}
    answer = None
    for candidate in (plain, *(line.candidate for line in reversed(front))):
        kept, route = candidate
        asked[candidate] = trials.judge(kept, "test", route)
        if not proves(asked[candidate], most):
            break
        answer = asked[candidate]
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
