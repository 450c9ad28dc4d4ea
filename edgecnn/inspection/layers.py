"""The layers of an engine, the precision of each, and where the time goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import open_engine
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.results.layers import LayerTable, layers_from_json, mean_times, table_of
from edgecnn.session import LayerTimer


def layer_table(path: Path, *, timed: bool, batch: int, queries: int, trust: bool) -> LayerTable:
    """An engine's layers (name, kind, precision, multiply-adds, time) and the shares by precision.

    Without `timed` the rows come from the sidecar and no GPU is needed. Raises `ArtifactError` when the sidecar names
    no layers, `MeasurementError` for an engine whose runtime does not time layers.
    """
    if not timed:
        layers = layers_from_json(read_sidecar(path).require_classes(path).facts.get("layers") or [])
        if not layers:
            raise ArtifactError(f"{path}: its sidecar names no layers", "only TensorRT plans built by edgecnn do")
        return table_of(layers, {})
    with open_engine(path, trust=trust) as session:
        if not isinstance(session, LayerTimer):
            raise MeasurementError(f"{path}: its runtime does not time layers", "TensorRT plans have layer times")
        shape = tuple(n or batch for n in session.input.shape)
        runs = session.layer_runs_ms(np.zeros(shape, session.input.dtype), queries)
        return table_of(session.layers(shape[0]), mean_times(runs))
