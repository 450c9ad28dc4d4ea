"""Collect the ranges of every activation in one pass; and say whether the images are fit for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.write import check_output
from edgecnn.data.calibration_set import find_manifest, is_manifest, read_manifest
from edgecnn.data.dataset import Dataset, spread
from edgecnn.steps import CALIBRATION_IMAGES
from edgecnn.steps._images import Progress, open_images
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps._shared import collect_shared, is_first

if TYPE_CHECKING:
    from edgecnn.graph.calibration.histogram import Ranges
    from edgecnn.steps.calibration_check import CalibrationCheck


def calibrate(
    graph: Path,
    output: Path,
    *,
    data: str,
    calibration: str = "",
    images: int = CALIBRATION_IMAGES,
    batch: int | None = None,
    threads: int | None = None,
    dataset: Dataset | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Write the ranges of the float32 `graph` over training images of `data`, at most `images` spread over the classes,
    or over those that the manifest `calibration` names.

    `dataset` are these images where the caller has opened them. Interrupted, the same call goes on where it stopped;
    under torchrun the processes share the images. Raises `DataError` for images that cannot be used, `GraphError` for
    the graph.
    """
    from edgecnn.graph.calibration.file import write_ranges

    check_output(output, ".json", graph)
    source = sidecar_of(graph)
    chosen = dataset or calibration_images(graph, data, calibration=calibration, images=images)
    ranges = collect_shared(
        graph,
        chosen,
        batch=batch,
        threads=threads,
        progress=progress,
        resume=output.with_name(f".{output.name}.partial"),
    )
    if is_first():
        fields = {"data.source": data, "data.calibration": calibration}
        facts = {"data_sha256": ranges.data_sha256}
        write_ranges(
            ranges,
            output,
            derived(source, output, (graph,), step="calibrate", kind="ranges", fields=fields, facts=facts),
        )
    return ranges


def calibration_images(
    graph: Path, data: str, *, calibration: str = "", images: int = CALIBRATION_IMAGES, named: bool = False
) -> Dataset:
    """The training images to calibrate `graph` with; where `named`, their classes must be the model's."""
    source = sidecar_of(graph)
    if calibration:
        return open_images(source, f"{find_manifest(calibration)}:{data}", "train", named=named)
    whole = open_images(source, data, "train", named=named)
    return whole.subset(spread(whole, images))


def check_images(
    graph: Path, data: str, *, images: int = CALIBRATION_IMAGES, test: str = "", progress: Progress | None = None
) -> CalibrationCheck:
    """Whether the images of `data` are fit to calibrate `graph`, and none of them is a test image of `test` (left out:
    the test split of the same data set)."""
    from edgecnn.steps.calibration_check import check_calibration

    dataset = images_named(graph, data, images, named=True)
    tested = open_images(sidecar_of(graph), test or source_and_manifest(data)[0], "test")
    return check_calibration(dataset, tested, graph, progress=progress)


def images_named(graph: Path, data: str, images: int = CALIBRATION_IMAGES, *, named: bool = False) -> Dataset:
    """The training images that `data` names (a manifest, or a source of images) to calibrate `graph` with."""
    source, calibration = source_and_manifest(data)
    return calibration_images(graph, source, calibration=calibration, images=images, named=named)


def source_and_manifest(data: str) -> tuple[str, str]:
    """Where the images of `data` are, and the manifest that chooses among them ("" without one)."""
    if not is_manifest(data):
        return data, ""
    name, separator, root = data.partition(".txt:")
    manifest = f"{name}.txt" if separator else data
    return root or read_manifest(find_manifest(manifest)).source, manifest
