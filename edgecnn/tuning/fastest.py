"""Which nodes to keep in float so that a graph takes least time, or energy, whatever that does to its accuracy."""

from __future__ import annotations

from edgecnn.tuning.trials import Trials
from edgecnn.tuning.workbench import Kept

SECONDS = {"latency": 0.5, "energy": 4.0}  # of each run; some sensors of power average over one
FINEST = {"cpu": 64, "gpu": 8}  # into how many blocks the nodes are cut at most: plans take minutes to build
FINEST_BY_ENERGY = 8  # beside each run stand seconds of idling


def find_fastest(trials: Trials) -> Kept:
    """Blocks of consecutive nodes change sides, the largest first, wherever that makes the graph faster, or cheaper
    in energy, beyond the noise: between INT8 and float a runtime converts, so that a node alone may lose what its block
    wins.
    """
    task = trials.task
    nodes, seconds = task.weighted, SECONDS[task.objective]
    whole: Kept = ()
    current = whole if trials.compare(task.all_float, [whole], seconds) else task.all_float
    finest = FINEST_BY_ENERGY if task.objective == "energy" else FINEST[task.target.kind]
    size, least = len(nodes), max(1, len(nodes) // finest)
    while size >= least:
        blocks = [frozenset(nodes[start : start + size]) for start in range(0, len(nodes), size)]
        current = _flip(trials, current, blocks)
        if size == 1:
            break
        size = (size + 1) // 2
    return current


def _flip(trials: Trials, current: Kept, blocks: list[frozenset[str]]) -> Kept:
    """`current`, or what is best of it with one of the blocks, or all that help, on another side."""
    task, inside, seconds = trials.task, frozenset(current), SECONDS[trials.task.objective]
    flips: dict[Kept, list[tuple[frozenset[str], frozenset[str]]]] = {}
    for block in blocks:
        for added, taken in ((block - inside, frozenset[str]()), (frozenset[str](), block & inside)):
            kept = task.in_order((inside | added) - taken)
            if kept != current and kept not in flips:
                flips[kept] = [(added, taken)]
    timed = trials.compare(current, list(flips), seconds)
    better = sorted((line for line in timed if line.ratio_ci[1] < 1), key=lambda line: line.ratio)
    if not better:
        return current
    best = better[0].kept
    joint = inside
    for line in reversed(better):  # the best last, so that it holds where two speak of one node
        for added, taken in flips[line.kept]:
            joint = (joint | added) - taken
    together = task.in_order(joint)
    if together == best:
        return best
    compared = trials.compare(best, [together], seconds)
    return together if compared and compared[0].ratio < 1 else best
