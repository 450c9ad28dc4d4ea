"""Collect the ranges of every activation in one pass; and say whether the images are fit for it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.artifact.write import check_output
from edgecnn.data.calibration_set import find_manifest, is_manifest, read_manifest
from edgecnn.data.dataset import Dataset, spread
from edgecnn.errors import DataError
from edgecnn.machine.cpu import cpu_device
from edgecnn.machine.threads import limit_threads, spare_threads
from edgecnn.steps import CALIBRATION_IMAGES
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_at_least, require_packages
from edgecnn.steps._embeddings import without_unseen
from edgecnn.steps._images import CORRUPT, DATA_FREE, Progress, open_images, without_corrupt
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps._shared import collect_shared, is_first

if TYPE_CHECKING:
    from edgecnn.results.calibration import CalibrationCheck

COMPARED = 256  # images of each set at most


def calibrate(
    graph: FilePath,
    output: FilePath | None = None,
    *,
    data: FilePath = "",
    data_free: bool = False,
    trust_code: bool = False,
    calibration: str = "",
    calibration_source: str = "",
    images: int = CALIBRATION_IMAGES,
    batch: int | None = None,
    threads: int | None = None,
    skip_corrupt: bool = False,
    dataset: Dataset | None = None,
    facts: Mapping[str, str | int] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the range of every activation of a float32 graph over training images; returns the file, X.calib.json.

        import edgecnn as ec
        ranges = ec.calibrate("m.fp32.onnx", data="imgs/train", images=512)
        int8 = ec.quantize("m.fp32.onnx", "m.int8.onnx", precision="int8", ranges=ranges)

    `data` is a data set, a folder, an .npz or a manifest; of the first three at most `images` are taken, spread over
    the classes, or those that the manifest `calibration` names; `calibration_source` is where they are, if not in
    `data`. `batch` images [N, C, H, W] run at once (left out: by their size); `dataset` are the images where the caller
    has opened them, `facts` are added to the sidecar. `skip_corrupt` leaves unreadable images out and counts them in
    the sidecar. `data_free` is the last resort, without images: they are made from the batch normalization of the
    network that the graph was exported from (one's own is run only with `trust_code`).
    Interrupted, the same call goes on where it stopped; under torchrun the processes share the images.
    Raises `DataError` for images that cannot be used, `GraphError` for the graph.
    """
    require_packages("calibrate")
    from edgecnn.graph.calibration.file import write_ranges

    graph, data = Path(graph), os.fspath(data)
    if data_free == bool(data or dataset):
        raise DataError(f"{graph}: calibration takes images (--data), or with --data-free none", "give one of the two")
    if not calibration:
        data, calibration = source_and_manifest(data)
    output = path_or_none(output) or named(graph, "calib.json")
    require_at_least(1, images=images, batch=batch, threads=threads)
    check_output(output, ".json", graph)
    source = sidecar_of(graph, verified=True)
    if data_free:
        from edgecnn.steps._data_free import make_calibration_images

        dataset = make_calibration_images(graph, trust_code=trust_code, progress=progress)
        facts = {**(facts or {}), DATA_FREE: dataset.name}
    chosen = dataset or calibration_images(graph, calibration_source or data, calibration=calibration, images=images)
    if skip_corrupt:
        chosen, known = without_corrupt(chosen, threads), len(chosen)
        facts = {**(facts or {}), CORRUPT: known - len(chosen)}
    with limit_threads(spare_threads(threads)) as threads:
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
            fields |= {"data.calibration_source": calibration_source} if calibration_source else {}
            facts = {**(facts or {}), "data_sha256": ranges.data_sha256}
            made = derived(
                source,
                output,
                (graph,),
                known={graph: ranges.graph_sha256},
                step="calibrate",
                kind="ranges",
                fields=fields,
                facts=facts,
            )
            write_ranges(ranges, output, dataclasses.replace(made, device=cpu_device(threads)))
    return output


def calibration_images(
    graph: Path, data: str, *, calibration: str = "", images: int = CALIBRATION_IMAGES, named: bool = False
) -> Dataset:
    """The training images to calibrate `graph` with; where `named`, their classes must be the model's."""
    source = sidecar_of(graph)
    form = "normalised" if source.features else source.contract.calibrated_input
    if calibration:
        chosen = open_images(source, f"{find_manifest(calibration)}:{data}", "train", named=named)
        return without_unseen(source, chosen).in_form(form)
    whole = without_unseen(source, open_images(source, data, "train", named=named))
    return whole.subset(spread(whole, images)).in_form(form)


def check_images(
    graph: Path,
    data: str,
    *,
    images: int = CALIBRATION_IMAGES,
    test: str = "",
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> CalibrationCheck:
    """Whether the images of `data` are fit to calibrate `graph`, and none of them is a test image of `test` (left out:
    the test split of the same data set)."""
    require_packages("calibrate")
    sidecar_of(graph).require_classes(graph)
    dataset = images_named(graph, data, images, named=True)
    tested = open_images(sidecar_of(graph), test or source_and_manifest(data)[0], "test")
    if skip_corrupt:
        dataset, tested = without_corrupt(dataset), without_corrupt(tested)
    return check_calibration(dataset, tested, graph, progress=progress)


def check_calibration(
    calibration: Dataset, test: Dataset, graph: Path | None, *, method: str = "mse", progress: Progress | None = None
) -> CalibrationCheck:
    """Check `calibration` against the images it must not hold, and its ranges on `graph` if there is one.

    `method` is the range method whose thresholds are resampled. Raises `DataError` for an empty set.
    """
    if len(calibration) == 0 or len(test) == 0:
        raise DataError("a calibration check needs images in both sets", "name two data sets that are not empty")
    from edgecnn.data.leakage import count_repeated, find_duplicates, find_near_duplicates
    from edgecnn.graph.calibration.sufficiency import images_for_ranges, measure_range_moves
    from edgecnn.results.calibration import CalibrationCheck

    same = find_duplicates(calibration, test)
    near, checked = find_near_duplicates(calibration, test, set(same))
    moves = {} if graph is None else measure_range_moves(graph, calibration, method, progress)
    worst = max(moves, key=lambda name: moves[name].excess_pct) if moves else None
    excess = float(np.median([m.excess_pct for m in moves.values()])) if moves else None
    distance, strange = (None, ()) if graph is None else _compare_with_test(graph, calibration, test)
    found = CalibrationCheck(
        n=len(calibration),
        test_n=len(test),
        duplicates=same,
        near_duplicates=near,
        near_duplicates_checked=checked,
        repeated=count_repeated(calibration),
        classes=None if calibration.label_names is None else len(calibration.label_names),
        classes_covered=None if calibration.labels is None else len(set(calibration.labels.tolist())),
        classes_missing=_missing_classes(calibration),
        range_method=method if moves else None,
        range_spread_pct_median=float(np.median([m.spread_pct for m in moves.values()])) if moves else None,
        noise_excess_pct_median=excess,
        noise_excess_pct_worst=moves[worst].excess_pct if worst else None,
        worst_tensor=worst,
        suggested_n=None if excess is None else images_for_ranges(len(calibration), excess),
        test_distance=distance,
        problems=(),
    )
    return dataclasses.replace(found, problems=(*strange, *_leaks(found), *_gaps(found)))


def _compare_with_test(graph: Path, calibration: Dataset, test: Dataset) -> tuple[float | None, tuple[str, ...]]:
    """How far the logits of the calibration images are from those of the test images, and what speaks against them."""
    from edgecnn.graph.calibration.familiarity import FEWEST_IMAGES, are_apart, logits_distance, measure_told
    from edgecnn.graph.ptq.candidates import compute_logits
    from edgecnn.graph.serving import load_body

    if len(calibration) < FEWEST_IMAGES:
        return None, ()
    model = load_body(graph)
    known, wanted = (
        compute_logits(model, one.subset(np.linspace(0, len(one) - 1, min(len(one), COMPARED)).astype(int).tolist()))
        for one in (calibration, test)
    )
    distance = logits_distance(known, wanted) if len(wanted) >= FEWEST_IMAGES else None
    found = []
    if distance is not None and are_apart(distance, len(known)):
        found.append(
            f"to the network these images are not like the test images: their logits are {distance:.2f} apart, where "
            "images of the same kind are about 0 and at most 1 is possible"
        )
    told = measure_told(known)
    return distance, (*found, told.reason) if told.unfamiliar else tuple(found)


def _missing_classes(calibration: Dataset) -> tuple[str, ...]:
    if calibration.labels is None or calibration.label_names is None:
        return ()
    there = set(calibration.labels.tolist())
    return tuple(name for k, name in enumerate(calibration.label_names) if k not in there)


def _leaks(found: CalibrationCheck) -> Iterator[str]:
    if found.duplicates:
        image, other = found.duplicates[0]
        yield f"{len(found.duplicates)} images are test images: {image} is {other}"
    if found.near_duplicates:
        image, other = found.near_duplicates[0]
        yield f"{len(found.near_duplicates)} images look like test images: {image} like {other}"


def _gaps(found: CalibrationCheck) -> Iterator[str]:
    from edgecnn.graph.calibration.familiarity import FEWEST_IMAGES
    from edgecnn.graph.calibration.sufficiency import GOOD_EXCESS_PCT

    if found.repeated and (different := found.n - found.repeated) < FEWEST_IMAGES:
        yield f"{found.repeated} of {found.n} images are copies of others; of different ones there are {different}"
    missing, classes, excess = found.classes_missing, found.classes, found.noise_excess_pct_median
    if missing and classes and found.n >= classes:
        yield f"{len(missing)} of {classes} classes have no image: {', '.join(missing[:5])}"
    if excess is not None and excess > GOOD_EXCESS_PCT:
        yield (
            f"the ranges are those of few images: on others like them they cost {excess:.1f} % more rounding noise "
            f"(median); about {found.suggested_n} images would keep that within {GOOD_EXCESS_PCT:g} %"
        )


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
