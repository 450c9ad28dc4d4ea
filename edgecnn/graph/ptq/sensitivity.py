"""Which tensor makes how much of the noise in the logits: each quantised alone, on a few images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.data.dataset import Dataset
from edgecnn.graph.ptq.candidates import Candidate, logits_of
from edgecnn.graph.qdq.insert import insert_pairs
from edgecnn.graph.qdq.placement import Placement

IMAGES = 16
WEIGHTS = "all weights"


def noise_shares(candidate: Candidate, placement: Placement, data: Dataset) -> dict[str, float]:
    """Percent of the summed noise by group of activations, and of all weights together (under `WEIGHTS`).

    Each is quantised alone in the float graph, so that the shares are those of independent sources.
    """
    few = data.subset([int(i) for i in np.linspace(0, len(data) - 1, min(IMAGES, len(data))).round()])
    exact = logits_of(candidate.float_model, few)
    noise = {}
    for group in dict.fromkeys(q.group for q in placement.activations):
        alone = Placement(placement.style, tuple(q for q in placement.activations if q.group == group), ())
        noise[group] = _noise(exact, insert_pairs(candidate.float_model, alone, candidate.scales, {}), few)
    weights = Placement("tensorrt", (), placement.weights)
    noise[WEIGHTS] = _noise(exact, insert_pairs(candidate.float_model, weights, {}, candidate.weights), few)
    return _percent(noise)


def _noise(exact: npt.NDArray[np.float32], model: onnx.ModelProto, data: Dataset) -> float:
    return float(np.square(exact - logits_of(model, data), dtype=np.float64).sum())


def _percent(noise: Mapping[str, float]) -> dict[str, float]:
    total = sum(noise.values()) or 1.0
    return {name: round(100 * value / total, 2) for name, value in noise.items()}
