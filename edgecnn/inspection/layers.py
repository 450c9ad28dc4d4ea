"""The layers of an engine: their precision, read from the engine itself, and where the time goes.

Works on the neutral records of `edgecnn.backends._layers`, which `backends/trt/` makes from the engine inspector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import open_engine
from edgecnn.backends._layers import EngineLayer, layers_from_json, shares_of
from edgecnn.errors import ArtifactError, MeasurementError


def layer_table(path: Path, *, timed: bool, batch: int, queries: int, trust: bool) -> dict[str, Any]:
    """Rows of an engine's layers (name, kind, precision, multiply-adds, time) and the shares by precision.

    Without `timed` the rows come from the sidecar and no GPU is needed. Raises `ArtifactError` when the sidecar names
    no layers, `MeasurementError` for an engine whose runtime does not time layers.
    """
    if not timed:
        layers = layers_from_json(read_sidecar(path).facts.get("layers") or [])
        if not layers:
            raise ArtifactError(f"{path}: its sidecar names no layers", "only TensorRT plans built by edgecnn do")
        return _table(layers, {})
    with open_engine(path, trust=trust) as session:
        if not hasattr(session, "layer_times_ms") or not hasattr(session, "layers"):
            raise MeasurementError(f"{path}: its runtime does not time layers", "TensorRT plans have layer times")
        shape = tuple(n or batch for n in session.input.shape)
        return _table(session.layers(shape[0]), session.layer_times_ms(np.zeros(shape, np.float32), queries))


def _table(layers: Sequence[EngineLayer], times_ms: Mapping[str, float]) -> dict[str, Any]:
    total = sum(times_ms.values())
    rows = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "role": layer.role,
            "precision": layer.precision,
            "macs": layer.macs,
            "time_ms": times_ms.get(layer.name),
            "time_pct": 100 * times_ms[layer.name] / total if total and layer.name in times_ms else None,
            "nodes": list(layer.nodes),
        }
        for layer in layers
    ]
    return {"layers": rows, "time_ms": total or None, **shares_of(layers, times_ms)}
