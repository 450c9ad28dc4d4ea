"""A features engine against the features graph that it was made from."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.backends import open_with_any_outputs
from edgecnn.data.preprocess import first_difference
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.machine.threads import allowed_threads
from edgecnn.measure.features import compare_features
from edgecnn.measure.predict import Progress
from edgecnn.records import to_plain
from edgecnn.results.features import FeaturesAgreement
from edgecnn.steps._images import open_images
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps._sessions import batch_of, device_of_session
from edgecnn.steps.validate import ValidateSettings


def validate_features(
    engine: Path,
    reference: Path,
    output: Path | None = None,
    *,
    data: str,
    settings: ValidateSettings | None = None,
    progress: Progress | None = None,
) -> FeaturesAgreement:
    """SQNR and cosine of each output of a features `engine` against those of the features graph `reference`, on the
    test images of `data`, which need no labels; written to `output` where one is named.

    Raises `ArtifactError` where one of the two gives no features, `MeasurementError` where they give other ones or see
    their images otherwise.
    """
    settings = settings or ValidateSettings()
    if output is not None:
        check_output(output, ".json", engine, reference)
    ours, theirs = require_features(engine), require_features(reference)
    if set(ours.features) != set(theirs.features):
        raise MeasurementError(
            f"{engine}: gives {', '.join(ours.features)}, and {reference}: {', '.join(theirs.features)}",
            "name the features graph that the engine was made from",
        )
    if difference := first_difference(ours.preprocessing or {}, theirs.preprocessing or {}):
        raise MeasurementError(
            f"{reference}: its preprocessing is not the engine's: {difference} in the reference",
            "name the features graph that the engine was made from",
        )
    dataset = open_images(ours, os.fspath(data), "test", named=False)
    threads = settings.threads
    with (
        open_with_any_outputs(engine, threads, settings.trust, provider=settings.provider) as session,
        open_with_any_outputs(reference, threads) as known,
    ):
        found = compare_features(
            engine.stem,
            session,
            known,
            dataset,
            batch=min(batch_of(session, ours, settings.batch), batch_of(known, theirs, settings.batch)),
            workers=threads or allowed_threads(),
            strict=settings.strict,
            progress=progress,
        )
        device = device_of_session(session)
    if output is not None:
        fields = {"data.source": data}
        made = derived(ours, output, (engine, reference), step="validate", kind="features agreement", fields=fields)
        write_json_artifact(output, to_plain(found), dataclasses.replace(made, device=device))
    return found


def require_features(path: Path) -> Sidecar:
    """The sidecar of a features graph or engine; raises `ArtifactError` for another file."""
    known = sidecar_of(path)
    if not known.features:
        raise ArtifactError(
            f"{path}: gives no features, by its sidecar",
            "make a features graph: edgecnn export NETWORK --features pool",
        )
    return known
