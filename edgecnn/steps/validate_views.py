"""One engine on several crops of each test image, their probabilities averaged: what no engine does in one query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.contract import TOP_K
from edgecnn.data.dataset import Dataset
from edgecnn.errors import MeasurementError
from edgecnn.graph.decision import decision_threshold
from edgecnn.machine.threads import allowed_threads
from edgecnn.measure.multi_scale import MultiScale, measure_multi_scale
from edgecnn.measure.predict import Predictions, Progress
from edgecnn.measure.ten_crop import TenCrop, measure_ten_crop
from edgecnn.steps._foreign import open_compared, sidecar_beside
from edgecnn.steps._images import open_images
from edgecnn.steps._sessions import batch_of
from edgecnn.steps._shared import predict_shared
from edgecnn.steps.validate import ValidateSettings


def validate_views(
    engine: Path,
    reference: Path,
    *,
    data: str,
    scales: Sequence[int] = (),
    ten_crop: bool = False,
    settings: ValidateSettings | None = None,
    progress: Progress | None = None,
) -> TenCrop | MultiScale:
    """Accuracy of `engine` with several crops of each test image: at each of `scales` (the short side, pixels; left
    out: that of its preprocessing) the center crop, or ten. An upper reference, beside what an engine does. What a
    foreign engine does not say of itself, the `reference` does."""
    settings, sidecar = settings or ValidateSettings(), sidecar_beside(engine, reference)
    contract = sidecar.contract
    if contract.output == "top-k":
        raise MeasurementError(
            f"{engine}: names its {TOP_K} best classes alone, and {'ten crops' if ten_crop else 'scales'} are averaged "
            "over all",
            f"leave {'--tta' if ten_crop else '--scales'} out, or export with --output probabilities",
        )
    with open_compared(engine, settings.threads, settings.trust, provider=settings.provider) as session:
        batch, workers = batch_of(session, sidecar, settings.batch), settings.threads or allowed_threads()
        threshold = decision_threshold(engine, sidecar, session.output)

        def run(crops: Dataset) -> Predictions:
            return predict_shared(
                session,
                crops,
                batch=batch,
                workers=workers,
                progress=progress,
                strict=settings.strict,
                threshold=threshold,
                contract=contract,
            )

        images = open_images(sidecar, data, "test")
        if scales:
            return measure_multi_scale(images, scales, run, ten_crop=ten_crop)
        return measure_ten_crop(images, run)
