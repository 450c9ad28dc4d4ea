"""Whether ranges are settled: how far they would move with other images of the same kind, and how much 8-bit rounding
noise that costs, found by resampling eighths of the calibration set (a bootstrap over parts)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecnn.data.dataset import Dataset
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.calibration.thresholds import squared_errors, threshold
from edgecnn.graph.serving import load_body
from edgecnn.graph.simplify import simplify_graph

PARTS = 8
RESAMPLES = 50
GOOD_EXCESS_PCT = 2.0  # rounding noise on top of that of the best ranges, 0.09 dB

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RangeMove:
    """Of one tensor, in per cent: the standard deviation of its range over resampled sets, and the squared rounding and
    clipping error that these ranges add on average."""

    spread_pct: float
    excess_pct: float


def measure_range_moves(
    graph: Path, calibration: Dataset, method: str, progress: Progress | None = None
) -> dict[str, RangeMove]:
    """How the threshold of every tensor of `graph` by `method` moves over sets of resampled eighths; empty for fewer
    than two images."""
    parts = min(PARTS, len(calibration))
    if parts < 2:
        return {}
    model = simplify_graph(load_body(graph))
    collected = []
    for k in range(parts):
        part = calibration.subset(range(k, len(calibration), parts))
        collected.append(collect_from_model(model, "", part, of=len(calibration)))
        if progress is not None:
            progress(k + 1, parts)
    draws = np.random.default_rng(0).integers(0, parts, (RESAMPLES, parts))
    correction = parts / (parts - 1)  # of the bootstrap's bias with few parts
    moves = {}
    for name in collected[0].tensors:
        statistics = [part.tensors[name] for part in collected]
        values = [threshold(_merged([statistics[k] for k in draw]), method) for draw in draws]
        whole = _merged(statistics)
        noise = squared_errors(whole.magnitudes, np.array([*values, threshold(whole, method), whole.largest]), 127)
        spread = math.sqrt(correction) * float(np.std(values) / max(float(np.mean(values)), 1e-30))
        excess = correction * max(0.0, float(noise[:RESAMPLES].mean() / max(float(noise[RESAMPLES]), 1e-30) - 1))
        moves[name] = RangeMove(100 * spread, 100 * excess)
    return moves


def _merged(statistics: Sequence[TensorStatistics]) -> TensorStatistics:
    merged = copy.deepcopy(statistics[0])
    for one in statistics[1:]:
        merged.merge(one)
    return merged


def images_for_ranges(n: int, excess_pct: float) -> int:
    """Images at which the median excess would be good: it is quadratic in the error of the range, so falls as 1 / n."""
    return max(1, math.ceil(n * excess_pct / GOOD_EXCESS_PCT))
