"""The nodes that can be INT8, ranked by what that costs in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.trial_log import TrialLog
from edgecnn.data.dataset import Dataset, spread
from edgecnn.recipe.schema import RangeMethod
from edgecnn.results.engine import Scheme
from edgecnn.steps._images import Progress
from edgecnn.steps.sensitivity import IMAGES, open_staged

if TYPE_CHECKING:
    from edgecnn.graph.staged import StagedGraph


@dataclass(frozen=True)
class Ranking:
    """`nodes` in the order of the graph, the products among them (`weighted`), the multiply-adds of each node (0 of
    what only adds or moves)."""

    graph: StagedGraph
    nodes: tuple[str, ...]
    weighted: tuple[str, ...]
    multiply_adds: Mapping[str, float]

    def by_noise(self, noise: Mapping[str, float]) -> list[str]:
        """The noisiest first."""
        return sorted(self.nodes, key=lambda name: -noise[name])

    def by_noise_per_multiply_add(self, noise: Mapping[str, float]) -> list[str]:
        """The one first whose leaving INT8 takes away most noise for the work that it takes along."""
        return sorted(self.nodes, key=lambda name: -noise[name] / max(self.multiply_adds[name], 1.0))


def find_nodes(graph: Path, ranges: Path, method: RangeMethod, exclude: Sequence[str], scheme: Scheme) -> Ranking:
    """The nodes of `graph` that can be INT8, but for those that `exclude` matches; raises the errors of the graph, of
    ranges of another one, and of patterns."""
    from edgecnn.graph.onnx_graph import count_multiply_adds
    from edgecnn.graph.qdq.exclude import find_excluded

    staged = open_staged(graph, ranges, "mse" if method == "auto" else method)
    left_out = find_excluded(staged.index.model, exclude, scheme)
    nodes = tuple(name for name in dict.fromkeys(q.node for q in staged.quantizers) if name not in left_out)
    counts = count_multiply_adds(staged.index.model)
    work = {name: float(counts.get(staged.index.node[name].output[0], 0)) for name in nodes}
    weighted = {q.node for q in staged.quantizers if q.part == "weights"}
    return Ranking(staged, nodes, tuple(name for name in nodes if name in weighted), work)


def rank_nodes(ranking: Ranking, images: Dataset, log: TrialLog, progress: Progress | None) -> dict[str, float]:
    """The noise that each node alone makes in the logits, with its weights and its activations, over some of the
    calibration `images`."""
    from edgecnn.diagnose.node_sensitivity import measure_quantizers

    chosen = tuple(q for q in ranking.graph.quantizers if q.node in ranking.nodes)
    found = measure_quantizers(ranking.graph, images.subset(spread(images, IMAGES)), chosen, log, progress)
    noise = dict.fromkeys(ranking.nodes, 0.0)
    for trial, difference in found.trials.items():
        if trial.kind == "alone":
            noise[trial.quantizer.node] += difference.noise
    return noise
