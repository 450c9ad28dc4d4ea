"""The vectors of a folder of images: an index in which images are looked up."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from edgecnn.artifact.write import check_output
from edgecnn.backends import open_with_any_outputs
from edgecnn.data.open import has_test_split
from edgecnn.machine.threads import allowed_threads
from edgecnn.measure.predict import Progress
from edgecnn.measure.vectors import Vectors, collect_vectors, find_vector_output, join_vectors, write_vectors
from edgecnn.steps._arguments import FilePath, require_at_least
from edgecnn.steps._images import open_images
from edgecnn.steps._provenance import derived
from edgecnn.steps._sessions import batch_of, device_of_session
from edgecnn.steps.validate_features import require_features


def features(
    engine: FilePath,
    output: FilePath,
    *,
    data: FilePath,
    batch: int | None = None,
    threads: int | None = None,
    strict: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Vectors:
    """Write the vectors of the images of `data` by a features `engine` that gives one vector an image.

        import edgecnn as ec
        pool = ec.export("resnet18", "pool.fp32.onnx", features=["pool"])
        found = ec.features(pool, "imgs.npz", data="imgs")

    The training images, and the test images where there are some: `found.vectors` [N, D] in the order of `found.ids`.
    Interrupted, the same call goes on where it stopped. An unreadable image is left out and listed, with `strict` it
    raises `DataError`. Raises `ArtifactError` for an engine without features, `MeasurementError` for one without a
    vector.
    """
    engine, output, data = Path(engine), Path(output), os.fspath(data)
    require_at_least(1, batch=batch, threads=threads)
    check_output(output, ".npz", engine)
    sidecar = require_features(engine)
    datasets = {"train": open_images(sidecar, data, "train", named=False)}
    if has_test_split(data):
        classes = dataclasses.replace(sidecar, labels=list(datasets["train"].label_names or ()) or None)
        datasets["test"] = open_images(classes, data, "test")
    journals = {split: output.with_name(f".{output.name}.{split}.partial") for split in datasets}
    with open_with_any_outputs(engine, threads, trust) as session:
        vector = find_vector_output(engine, session)
        parts = [
            collect_vectors(
                session,
                vector,
                dataset,
                split,
                batch=batch_of(session, sidecar, batch),
                workers=threads or allowed_threads(),
                strict=strict,
                identity=sidecar.sha256,
                journal=journals[split],
                progress=progress,
            )
            for split, dataset in datasets.items()
        ]
        device = device_of_session(session)
    found = join_vectors(parts)
    made = derived(
        sidecar,
        output,
        (engine,),
        step="features",
        kind="features",
        fields={"data.source": data},
        facts={"output": vector},
    )
    write_vectors(output, found, dataclasses.replace(made, device=device))
    for journal in journals.values():
        journal.unlink(missing_ok=True)
    return found
