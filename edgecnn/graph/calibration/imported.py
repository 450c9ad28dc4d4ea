"""Ranges from the calibration cache that a TensorRT of old wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecnn.artifact.calibration_cache import read_calibration_cache, require_tensors
from edgecnn.artifact.sidecar import sha256_of
from edgecnn.graph.calibration.collect import find_observed_tensors
from edgecnn.graph.calibration.histogram import BINS, Ranges, TensorStatistics
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.serving import load_body
from edgecnn.graph.simplify import simplify_graph


def import_ranges(cache: Path, graph: Path) -> Ranges:
    """The scales of `cache` for the tensors of `graph`, a float32 ONNX file.

    The cache names tensors as TensorRT's parser does, and that takes ONNX's names. Raises `ArtifactError` for a cache
    that is damaged, of another graph, or lacks a tensor that INT8 reads; `GraphError` for the graph.
    """
    scales = read_calibration_cache(cache).scales
    model = simplify_graph(load_body(graph))
    index = OnnxGraph(model)
    wanted = {q.tensor: f"read by {q.edges[0].node}" for q in place(model, "tensorrt").activations}
    require_tensors(cache, scales, wanted, str(graph))
    names = [name for name in (index.input, *find_observed_tensors(index)) if name in scales]
    return Ranges(
        graph_sha256=sha256_of(graph),
        data=cache.name,
        data_sha256=sha256_of(cache),
        images=0,
        tensors={name: _statistics(name, scales[name]) for name in names},
    )


def _statistics(name: str, scale: float) -> TensorStatistics:
    extreme = np.array([127 * scale], np.float32)
    return TensorStatistics(
        name=name,
        positive=np.zeros(BINS, np.int64),
        negative=np.zeros(BINS, np.int64),  # the sign is not known: room for both
        channel_low=-extreme,
        channel_high=extreme,
        scale=scale,
    )
