"""Bring the calibration cache of an older TensorRT into the flow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgecnn.artifact.write import check_output
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_packages
from edgecnn.steps._provenance import derived, sidecar_of


def import_ranges(cache: FilePath, graph: FilePath, output: FilePath | None = None) -> Path:
    """Write the scales of a calibration cache as ranges of a float32 graph; returns the file, X.calib.json.

        import edgecnn as ec
        ranges = ec.import_ranges("CalibrationTable", "m.fp32.onnx")
        int8 = ec.quantize("m.fp32.onnx", precision="int8", ranges=ranges, method="minmax")

    The cache is the text that TensorRT's INT8 calibrators of 5 to 10 wrote. A scale is largest absolute value / 127,
    and comes back from the ranges to the bit. Raises `ArtifactError` for a cache that is damaged, of another graph, or
    lacks a tensor that INT8 reads.
    """
    require_packages("calibrate")
    from edgecnn.graph.calibration.file import write_ranges
    from edgecnn.graph.calibration.imported import import_ranges as read

    cache, graph = Path(cache), Path(graph)
    output = path_or_none(output) or named(graph, "calib.json")
    check_output(output, ".json", graph, cache)
    source = sidecar_of(graph, verified=True).require_classes(graph)
    ranges = read(cache, graph)
    made = derived(
        source,
        output,
        (graph, cache),
        step="calibrate",
        kind="ranges",
        facts={"data_sha256": ranges.data_sha256, "calibration_cache": cache.name},
    )
    write_ranges(ranges, output, dataclasses.replace(made, made_by="edgecnn import-ranges"))
    return output
