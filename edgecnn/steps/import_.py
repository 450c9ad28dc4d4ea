"""Import a graph from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from edgecnn.artifact.write import check_output
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_packages


def import_onnx(
    source: FilePath, output: FilePath | None = None, *, preprocess: FilePath = "", labels: FilePath = ""
) -> Path:
    """Bring a graph from elsewhere to edgecnn's contract; returns the graph, whose sidecar names what was changed.

        import edgecnn as ec
        fp32 = ec.import_onnx("theirs.onnx", "ours.fp32.onnx", preprocess="imagenet-224")
        ec.validate(fp32, "theirs.onnx", data="imgs/val").agreement_pct

    `preprocess` is a preset or a JSON file, `labels` is "imagenet" or a file; without them those of the source's
    sidecar or metadata are taken. What comes out takes float32 images [N, C, H, W] and gives logits [N, classes];
    without an `output` it lies beside the source as SOURCE.fp32.onnx. Raises `GraphError` for a graph that cannot be
    used, `DataError` for preprocessing or labels that contradict it.
    """
    require_packages("calibrate")  # what any step on a graph needs
    from edgecnn.graph.importing.foreign import import_graph, named_labels, named_preprocessing

    source = Path(source)
    path = path_or_none(output) or named(source, "fp32.onnx")
    check_output(path, ".onnx", source)
    import_graph(
        source,
        path,
        named_preprocessing(os.fspath(preprocess)) if preprocess else None,
        named_labels(os.fspath(labels)) if labels else None,
    )
    return path
