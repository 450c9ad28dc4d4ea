"""Build routes as one more axis of a search, tried on the graph that would be the answer without them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from edgecnn.errors import RecipeError, nearest
from edgecnn.results.build_routes import Knob
from edgecnn.results.search import Candidate, ComparedLine
from edgecnn.tuning.budget import Budget
from edgecnn.tuning.fastest import SECONDS
from edgecnn.tuning.workbench import REBUILDS

FIRST = 32  # of the routes that there are, where none are named: each is a build, which takes minutes on a small board
EXAMPLE = "as in --routes '-conv_lowering=[on|off] -kgen:tiling=[0|1|2]'; `edgecnn routes` lists what there is"
_WORD = re.compile(r"(-[^=\s]+)=(?:\[([^\[\]]+)\]|([^\[\]]+))")


@dataclass(frozen=True)
class Routes:
    """Those that are `tried`, of so many that are `known`."""

    tried: tuple[str, ...] = ()
    known: int = 0


def choose_routes(knobs: Sequence[Knob], asked: str) -> Routes:
    """What is tried: each other value of each knob, alone ("all"), the first `FIRST` of these (""), nothing ("none"),
    or what an expression names: `-knob=[a|b]` varies alone, as trtexec's `--tuningSearch=fast` does, and `-knob=a`
    stands in every route. Raises `RecipeError` for an expression of something else, and where there are no knobs."""
    if asked == "none":
        return Routes()
    single = tuple(f"{knob.name}={value}" for knob in knobs for value in knob.values if value != knob.default)
    if not asked or asked == "all":
        if asked and not single:
            raise RecipeError("--routes all: what builds here has no build routes", "leave --routes out")
        return Routes(single if asked else single[:FIRST], len(single))
    if not knobs:
        raise RecipeError(f"--routes {asked!r}: what builds here has no build routes", "leave --routes out")
    named = tuple(_named(knobs, asked))
    if not named:
        raise RecipeError(f"--routes {asked!r}: names nothing but defaults", EXAMPLE)
    return Routes(named, len(named))


def try_routes(budget: Budget, costs: Mapping[Candidate, float], routes: Sequence[str]) -> dict[Candidate, float]:
    """The cheapest graph that holds the budget, built by each of the `routes` and measured in turn with itself as
    TensorRT builds it; then by all words together that helped beyond the noise. What a route makes of it is judged on
    the held-out images, the best first, until one holds the budget. Builds differ, and the best of many was lucky: both
    are built `REBUILDS` times more, and it counts only where it helps in each; its cost is then that of the middle one,
    or nothing is returned."""
    trials = budget.trials
    holding = [candidate for candidate in costs if budget.holds(candidate[0])]
    if not holding or not routes:
        return {}
    kept, _ = best = min(holding, key=costs.__getitem__)
    seconds = SECONDS[trials.task.objective]
    lines = [line for route in routes for line in trials.compare(kept, [kept], seconds, route)]
    better = sorted((line for line in lines if line.ratio_ci[1] < 1), key=lambda line: line.ratio)
    if len(joint := _joined(better).split()) > len(better[0].route.split() if better else ()):
        better += [line for line in trials.compare(kept, [kept], seconds, " ".join(joint)) if line.ratio_ci[1] < 1]
        better.sort(key=lambda line: line.ratio)
    for line in better:
        if budget.allows(trials.judge(kept, route=line.route)):
            anew = [trials.compare(kept, [kept], seconds, line.route, nth) for nth in range(1, REBUILDS + 1)]
            ratios = [again.ratio for lines in anew for again in lines if again.ratio_ci[1] < 1]
            return {(kept, line.route): costs[best] * median(ratios)} if len(ratios) == REBUILDS else {}
    return {}


def _joined(better: Sequence[ComparedLine]) -> str:
    """Of each knob the value in the best route that has it."""
    words = dict[str, str]()
    for line in better:
        for word in line.route.split():
            words.setdefault(word.partition("=")[0], word)
    return " ".join(words.values())


def _named(knobs: Sequence[Knob], asked: str) -> Iterator[str]:
    known = {knob.name: knob for knob in knobs}
    fixed, varied, seen = list[str](), list[str](), set[str]()
    for word in asked.split():
        found = _WORD.fullmatch(word)
        if found is None:
            raise RecipeError(f"--routes: {word!r} is neither -knob=value nor -knob=[value|value]", EXAMPLE)
        name, listed, value = found.groups()
        if name not in known:
            close = nearest(name, known) or "`edgecnn routes` lists what there is"
            raise RecipeError(f"--routes: there is no knob {name}", close)
        if name in seen:
            raise RecipeError(f"--routes: {name} stands there more than once", "leave one of them out")
        seen.add(name)
        values = [value] if value else [one.strip() for one in listed.split("|")]
        if wrong := [one for one in values if not known[name].takes(one)]:
            allowed = ", ".join(known[name].values) or "single ones"
            raise RecipeError(f"--routes: {name}={wrong[0]}: no value of that knob", f"allowed: {allowed}")
        if value:
            fixed.append(word)
        else:
            varied += [f"{name}={one}" for one in dict.fromkeys(values) if one != known[name].default]
    if any(word.partition("=")[2] != known[word.partition("=")[0]].default for word in fixed):
        yield " ".join(fixed)
    yield from (" ".join([*fixed, word]) for word in varied)
