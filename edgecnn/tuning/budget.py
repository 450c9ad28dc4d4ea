"""As few nodes in float as the budget needs: graphs judged on held-out images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from edgecnn.results.search import JudgedLine
from edgecnn.statistics import drop_interval
from edgecnn.tuning.trials import Trials
from edgecnn.tuning.workbench import Kept

PRUNED = 8  # nodes that are tried in INT8 again, after enough are in float


def expected_bound(line: JudgedLine, n: int) -> float:
    """The upper end of the 95 % interval of the drop on `n` images, a proportion, were its shares those of `line`."""
    return drop_interval(line.lost * n / line.n, line.gained * n / line.n, n)[1]


class Budget:
    """What holds: a graph whose drop `n` test images are expected to prove within `most`, a proportion."""

    def __init__(self, trials: Trials, n: int, most: float) -> None:
        self.trials, self._n, self._most = trials, n, most

    def holds(self, nodes: Collection[str]) -> bool:
        """Whether the graph that keeps these nodes in float does, as far as the held-out images tell."""
        return self.allows(self.trials.judge(self.trials.task.in_order(frozenset(nodes))))

    def allows(self, line: JudgedLine) -> bool:
        """Whether what was judged does."""
        return not line.failed and self.bound(line) <= self._most

    def bound(self, line: JudgedLine) -> float:
        """`expected_bound` on the test images."""
        return expected_bound(line, self._n)

    def find_holding(self, start: Kept, order: Sequence[str], price: Mapping[str, float]) -> Kept | None:
        """`start` and as many nodes of `order` as are needed, found by doubling and bisection; then without those that
        prove dispensable, the ones of the highest `price` first. None where not even all of them suffice."""
        rest = [name for name in order if name not in start]

        def first(k: int) -> set[str]:
            return {*start, *rest[:k]}

        low, high = -1, 0
        while not self.holds(first(high)):
            if high == len(rest):
                return None
            low, high = high, min(len(rest), max(1, 2 * high))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.holds(first(middle)) else (middle, high)
        kept = first(high)
        if frozenset(self.trials.task.weighted) <= kept:
            return self.trials.task.all_float
        for name in sorted(rest[:high], key=lambda name: -price[name])[:PRUNED]:
            if self.holds(kept - {name}):
                kept = kept - {name}
        return self.trials.task.in_order(frozenset(kept))
