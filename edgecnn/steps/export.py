"""Export a network to ONNX, proven equal to PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.write import check_output
from edgecnn.errors import ModelError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.steps._provenance import derived
from edgecnn.zoo import check_size, find_model


def export(
    model: str,
    output: Path | None = None,
    *,
    checkpoint: Path | None = None,
    weights: str = "default",
    classes: int | None = None,
    labels: Sequence[str] | None = None,
    size: int | None = None,
    max_batch: int = BatchSettings.max,
) -> tuple[Path, Sidecar]:
    """Export a network of the zoo with published weights ("default"), random ones ("none"), a path or URL, or a
    `checkpoint` of one's own, for `size` x `size` pixels; returns the graph and its sidecar.

    The graph is proven in ONNX Runtime at batch 1, 2 and `max_batch`. Raises `ModelError` for a network that is not
    known or does not fit its weights, `GraphError` where the logits differ.
    """
    card = find_model(model)
    if size is not None:
        check_size(card, size, size)
    if checkpoint is not None and weights != "default":
        raise ModelError(
            f"--checkpoint {checkpoint} and --weights {weights} are two sources of one network's weights",
            "give one of them",
        )
    path = output or Path(f"{card.name}.fp32.onnx")
    check_output(path, ".onnx", checkpoint)
    from edgecnn.pytorch.export.exporter import export_model

    source = weights if checkpoint is None else str(checkpoint)
    made = export_model(card.name, path, weights=source, classes=classes, size=size, labels=labels, max_batch=max_batch)
    return path, made


def export_checkpoint(checkpoint: Path, output: Path, batch: BatchSettings, threads: int | None = None) -> Sidecar:
    """Export the network that a checkpoint's sidecar names, with what that says of labels and preprocessing."""
    from edgecnn.pytorch.export.exporter import export_onnx
    from edgecnn.pytorch.reference import open_reference

    source = read_sidecar(checkpoint)
    fields = {"batch.max": batch.max}
    sidecar = derived(source, output, (checkpoint,), step="export", kind="graph", fields=fields)
    with open_reference(checkpoint, threads) as reference:
        card = find_model(source.facts["model"])
        return export_onnx(reference.network, card, output, sidecar, max_batch=batch.max)
