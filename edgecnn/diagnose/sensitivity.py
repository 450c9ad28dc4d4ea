"""Which tensor makes how much of the noise in the logits: each quantized alone, on a few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.data.dataset import Dataset
from edgecnn.graph.ptq.candidates import Candidate, compute_logits
from edgecnn.graph.ptq.quantize import distinct_images
from edgecnn.graph.qdq.insert import insert_qdq
from edgecnn.quantization import Placement
from edgecnn.results.quantization import LayerNoise, QuantizationReport

SENSITIVITY_IMAGES = 16
WEIGHTS = "all weights"


def explain_noise(
    report: QuantizationReport,
    candidate: Candidate,
    placement: Placement,
    data: Dataset,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizationReport:
    """`report` with the share of each tensor, and of all weights, in the noise of the logits."""
    shares = measure_noise_shares(candidate, placement, distinct_images(data), progress)
    tensors = tuple(replace(row, logit_noise_pct=shares[row.scale_group]) for row in report.tensors)
    return replace(report, tensors=tensors, weights_logit_noise_pct=shares[WEIGHTS])


def layer_noise(report: QuantizationReport, placement: Placement) -> tuple[LayerNoise, ...]:
    """The shares that `explain_noise` measured, the largest first, with the nodes that read each scale."""
    shares = {row.scale_group: row.logit_noise_pct for row in report.tensors if row.logit_noise_pct is not None}
    nodes = {
        group: tuple(dict.fromkeys(e.node for q in placement.activations if q.scale_group == group for e in q.edges))
        for group in shares
    }
    rows = [LayerNoise(tensor=group, nodes=nodes[group], logit_noise_pct=share) for group, share in shares.items()]
    return tuple(sorted(rows, key=lambda row: -row.logit_noise_pct))


def measure_noise_shares(
    candidate: Candidate,
    placement: Placement,
    data: Dataset,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Percent of the summed noise by scale group of activations, and of all weights together (under `WEIGHTS`).

    Each is quantized alone in the float graph, so that the shares are those of independent sources.
    """
    some = np.linspace(0, len(data) - 1, min(SENSITIVITY_IMAGES, len(data))).round()
    few = data.subset([int(i) for i in some])
    expected = compute_logits(candidate.float_model, few)
    noise: dict[str, float] = {}
    groups = dict.fromkeys(q.scale_group for q in placement.activations)
    for group in groups:
        pairs = tuple(q for q in placement.activations if q.scale_group == group)
        alone = Placement(placement.scheme, pairs, ())
        noise[group] = _noise(expected, insert_qdq(candidate.float_model, alone, candidate.scales, {}), few)
        if progress is not None:
            progress(len(noise), len(groups) + 1)
    weights = Placement("tensorrt", (), placement.weights)
    noise[WEIGHTS] = _noise(expected, insert_qdq(candidate.float_model, weights, {}, candidate.weights), few)
    return _percent(noise)


def _noise(expected: npt.NDArray[np.float32], model: onnx.ModelProto, data: Dataset) -> float:
    return float(np.square(expected - compute_logits(model, data), dtype=np.float64).sum())


def _percent(noise: Mapping[str, float]) -> dict[str, float]:
    total = sum(noise.values()) or 1.0
    return {name: round(100 * value / total, 2) for name, value in noise.items()}
