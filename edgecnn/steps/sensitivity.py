"""What each node of a graph costs in INT8, alone and within the quantized graph."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.sidecar import sha256_of, tool_versions
from edgecnn.artifact.trial_log import TrialLog
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.data.dataset import Dataset
from edgecnn.errors import DataError, GraphError, RecipeError
from edgecnn.machine.cpu import cpu_device
from edgecnn.machine.threads import limit_threads, spare_threads
from edgecnn.recipe.schema import RangeMethod
from edgecnn.records import to_plain
from edgecnn.results.sensitivity import ENDING, Sensitivity
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_at_least, require_one_of, require_packages
from edgecnn.steps._images import Progress
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps.calibrate import images_named
from edgecnn.version import __version__

if TYPE_CHECKING:
    from edgecnn.graph.staged import StagedGraph

IMAGES = 32
FEWEST_IMAGES = 16


def sensitivity(
    graph: FilePath,
    output: FilePath | None = None,
    *,
    ranges: FilePath,
    data: FilePath,
    images: int = IMAGES,
    method: RangeMethod = "mse",
    nodes: Sequence[str] = (),
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what the weights and the activations of each node cost in INT8, for TensorRT's scheme.

        import edgecnn as ec
        found = ec.sensitivity("m.fp32.onnx", ranges="m.calib.json", data="imgs/train")
        found.rows[0].node, found.rows[0].gain_db

    Each is quantized alone in the float graph, and left alone out of the quantized one, with the scales that `method`
    makes of `ranges`; the logits [N, classes] on `images` of `data` (as in `calibrate`) are compared with the float
    graph's, before a Softmax at its end. What is around computes in FP32. Writes `output`, X.sensitivity.json beside
    the graph; of some `nodes` alone nothing is written unless it is named. Interrupted, the same call goes on where it
    stopped, and trials of some nodes count for those of all. Raises `ArtifactError` for ranges of another graph,
    `DataError` for fewer than 16 images and for one that is there twice, `RecipeError` for a node that does not become
    INT8.
    """
    graph, ranges, output = Path(graph), Path(ranges), path_or_none(output)
    require_packages("quantize")
    require_one_of("method", method, RangeMethod)
    require_at_least(1, images=images, threads=threads)
    if method == "auto":
        raise RecipeError(
            "method = 'auto': makes up each layer for those before it, so that none can be judged alone",
            "take the scales of a plain method: mse",
        )
    whole = output or named(graph, ENDING)
    check_output(whole, ".json", graph, ranges)
    source = sidecar_of(graph, verified=True).require_classes(graph)
    staged = open_staged(graph, ranges, method)
    from edgecnn.diagnose.node_sensitivity import choose_quantizers, measure_quantizers, summarize

    chosen = choose_quantizers(staged, nodes)
    dataset = images_named(graph, os.fspath(data), images)
    shas = _require_different(dataset)
    log = TrialLog(whole.with_name(f".{whole.name}.jsonl"), _key(graph, ranges, method, dataset, shas))
    with limit_threads(spare_threads(threads)) as threads, log:
        found = measure_quantizers(staged, dataset, chosen, log, progress)
        made = summarize(
            staged,
            found,
            graph_name=graph.name,
            graph_sha256=sha256_of(graph),
            data=dataset.name,
            method=method,
            nodes=nodes,
        )
        if output is not None or not nodes:
            provenance = derived(source, whole, (graph, ranges), step="sensitivity", kind="sensitivity")
            provenance = dataclasses.replace(
                provenance, scheme="tensorrt", tools=tool_versions(*TOOLS["quantize"]), device=cpu_device(threads)
            )
            write_json_artifact(whole, to_plain(made), provenance)
        if not nodes:
            log.remove()
    return made


def open_staged(graph: Path, ranges: Path, method: str) -> StagedGraph:
    """The float graph, each quantizer of which can be tried alone, with the scales that `method` makes of `ranges`."""
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.graph.importing.head import remove_softmax
    from edgecnn.graph.load import naming
    from edgecnn.graph.ptq.candidates import round_candidate
    from edgecnn.graph.ptq.quantize import find_dead
    from edgecnn.graph.qdq.placement import place
    from edgecnn.graph.serving import load_body
    from edgecnn.graph.simplify import simplify_graph
    from edgecnn.graph.staged import StagedGraph

    known = read_ranges(ranges, sha256_of(graph))
    if known.imported and method != "minmax":
        raise RecipeError(
            f"{ranges}: of a calibration cache: one scale for each tensor, and nothing to choose a method by",
            "take the scales as they are: --method minmax; or calibrate",
        )
    with naming(graph):
        model = simplify_graph(load_body(graph))
        remove_softmax(model)
        placement = place(model, "tensorrt")
        if not placement.weights:
            raise GraphError("no Conv, Gemm or MatMul of it can be INT8", "nothing of it can be sensitive to INT8")
        find_dead(model, placement, known)
        rounded = round_candidate(model, placement, known.tensors, method, half=True)
        return StagedGraph(model, placement, rounded.scales, rounded.weights)


def _require_different(dataset: Dataset) -> list[str]:
    """The identities of the images; raises `DataError` where they are too few, or one is there twice."""
    if len(dataset) < FEWEST_IMAGES:
        raise DataError(
            f"{dataset.name}: {len(dataset)} images, at least {FEWEST_IMAGES} are needed to rank nodes by",
            f"name more images, or --images {IMAGES}",
        )
    first: dict[str, int] = {}
    for k in range(len(dataset)):
        before = first.setdefault(dataset.sha256(k), k)
        if before != k:
            raise DataError(
                f"{dataset.name}: {dataset.ids[k]} is the same image as {dataset.ids[before]}",
                "remove one: an image that is used twice counts twice",
            )
    return list(first)


def _key(graph: Path, ranges: Path, method: str, dataset: Dataset, shas: Sequence[str]) -> str:
    """Of what trials depend on."""
    preprocessing = dataset.preprocessing.sha256 if dataset.preprocessing else ""
    made_with = [__version__, *tool_versions("onnxruntime", "onnxruntime-gpu").values()]
    parts = [sha256_of(graph), sha256_of(ranges), method, preprocessing, dataset.form, *made_with, *shas]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
