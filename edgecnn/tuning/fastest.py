"""Which nodes to keep in float so that the graph is fastest, whatever that does to its accuracy."""

from __future__ import annotations

from edgecnn.tuning.trials import Trials
from edgecnn.tuning.workbench import Kept

SECONDS = 0.5
FINEST = {"cpu": 64, "gpu": 8}  # into how many blocks the nodes are cut at most: plans take minutes to build


def find_fastest(trials: Trials) -> Kept:
    """Blocks of consecutive nodes change sides, the largest first, wherever that makes the graph faster beyond the
    noise of its timing: between INT8 and float a runtime converts, so that a node alone may lose what its block wins.
    """
    task = trials.task
    nodes = task.weighted
    whole: Kept = ()
    current = whole if trials.time(task.all_float, [whole], SECONDS) else task.all_float
    size, least = len(nodes), max(1, len(nodes) // FINEST[task.target.kind])
    while size >= least:
        blocks = [frozenset(nodes[start : start + size]) for start in range(0, len(nodes), size)]
        current = _flip(trials, current, blocks)
        if size == 1:
            break
        size = (size + 1) // 2
    return current


def _flip(trials: Trials, current: Kept, blocks: list[frozenset[str]]) -> Kept:
    """`current`, or what is fastest of it with one of the blocks, or all that help, on another side."""
    task, inside = trials.task, frozenset(current)
    flips: dict[Kept, list[tuple[frozenset[str], frozenset[str]]]] = {}
    for block in blocks:
        for added, taken in ((block - inside, frozenset[str]()), (frozenset[str](), block & inside)):
            kept = task.in_order((inside | added) - taken)
            if kept != current and kept not in flips:
                flips[kept] = [(added, taken)]
    timed = trials.time(current, list(flips), SECONDS)
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
    compared = trials.time(best, [together], SECONDS)
    return together if compared and compared[0].ratio < 1 else best
