"""What the serving side's geometry costs an engine."""

from __future__ import annotations

from dataclasses import replace

from edgecnn.contract import Geometry
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.results.serving import ServingLoss


def measure_serving_loss(geometry: Geometry, served: Predictions, own: Predictions) -> ServingLoss:
    """An engine's predictions on images of another geometry, against its `own` on the same images by the
    preprocessing of its network; raises `MeasurementError` where they are not the same images."""
    found = measure_accuracy(geometry, replace(served, preprocessing_sha256=own.preprocessing_sha256), own)
    return ServingLoss(
        serving_geometry=geometry,
        serving_n=found.n,
        serving_n_labelled=found.n_labelled,
        serving_top1_pct=found.top1_pct,
        serving_drop_pp=found.top1_drop_pp,
        serving_drop_ci_pp=found.top1_drop_ci_pp,
        serving_lost=found.top1_lost,
        serving_gained=found.top1_gained,
        serving_agreement_pct=found.agreement_pct,
    )
