"""Import a graph from elsewhere."""

from __future__ import annotations

from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import check_output


def import_onnx(
    source: Path, output: Path | None = None, *, preprocess: str = "", labels: str = ""
) -> tuple[Path, Sidecar]:
    """Bring the graph `source` to edgecnn's contract; returns the graph and its sidecar, whose facts name the changes.

    `preprocess` is a preset or a JSON file, `labels` is "imagenet" or a file; without them those of the source's
    sidecar or metadata are taken. Raises `GraphError` for a graph that cannot be used, `DataError` for preprocessing or
    labels that contradict it.
    """
    from edgecnn.graph.importing.foreign import import_graph, named_labels, named_preprocessing

    path = output or Path(f"{source.stem.removesuffix('_fp32').removesuffix('.fp32')}.fp32.onnx")
    check_output(path, ".onnx", source)
    made = import_graph(
        source,
        path,
        named_preprocessing(preprocess) if preprocess else None,
        named_labels(labels) if labels else None,
    )
    return path, made
