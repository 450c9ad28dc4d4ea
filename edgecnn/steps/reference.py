"""Save the predictions that engines are compared with."""

from __future__ import annotations

from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar, sidecar_path, verified_sidecar
from edgecnn.artifact.write import check_output
from edgecnn.data.dataset import Dataset
from edgecnn.errors import ArtifactError
from edgecnn.graph.decision import decision_threshold
from edgecnn.measure.predict import Predictions, write_predictions
from edgecnn.steps._images import Progress, open_images
from edgecnn.steps._provenance import derived
from edgecnn.steps._sessions import VALIDATION_BATCH, open_reference_source, require_named
from edgecnn.steps._shared import is_first, predict_shared


def reference(
    source: Path,
    output: Path,
    *,
    data: str,
    threads: int | None = None,
    dataset: Dataset | None = None,
    facts: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Write the predictions of a checkpoint (PyTorch) or a graph (ONNX Runtime) on the test images of `data`.

    `dataset` are these images where the caller has opened them; `facts` are added to the sidecar. Raises
    `ArtifactError` for another kind of file, and the errors of the data set.
    """
    if not source.is_file():
        raise ArtifactError(f"{source}: no such file", "name a checkpoint (.safetensors) or a graph (.onnx)")
    check_output(output, ".npz", source)
    require_named(source)
    sidecar = verified_sidecar(source) if sidecar_path(source).exists() else Sidecar(kind="graph")
    chosen = dataset or open_images(sidecar, data, "test")
    with open_reference_source(source, threads) as session:
        threshold = decision_threshold(source, sidecar, session.output)
        predictions = predict_shared(session, chosen, batch=VALIDATION_BATCH, progress=progress, threshold=threshold)
    if is_first():
        fields = {"data.source": data}
        made = derived(sidecar, output, (source,), step="reference", kind="predictions", fields=fields, facts=facts)
        write_predictions(output, predictions, made)
    return predictions
