"""The work of each step: one function each, from a task to its file."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.write import write_bytes, write_json_artifact
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.data.calibration_set import find_manifest, make_manifest, open_data, read_manifest, select
from edgecnn.data.dataset import Dataset, Split
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.machine.cpu import available_cores
from edgecnn.pipeline.single import VALIDATION_BATCH
from edgecnn.pipeline.tasks import Task
from edgecnn.pipeline.validation import Settings, validate_engine
from edgecnn.pipeline.verdicts import engine_facts, judge_target, report_of
from edgecnn.recipe.schema import Recipe
from edgecnn.session import Session
from edgecnn.targets import find_target
from edgecnn.zoo import find_model

CALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class Context:
    """What every step is given."""

    recipe: Recipe
    folder: Path
    threads: int | None = None


def work(task: Task, context: Context) -> None:
    """Make `task.output`; its parents are there and fresh."""
    _WORK[task.step](task, context)


def open_split(context: Context, sidecar: Sidecar, split: Split) -> Dataset:
    """The recipe's data, prepared and labelled as the model that `sidecar` describes expects."""
    preprocessing = preprocessing_from_json(sidecar.preprocessing) if sidecar.preprocessing else None
    return open_data(context.recipe.data.source, preprocessing, split, sidecar.labels or (), sidecar.wnids or ())


def _train(task: Task, context: Context) -> None:
    recipe = context.recipe
    if recipe.train.epochs == 0:
        from edgecnn.pytorch.pretrained import checkpoint_from_weights

        preprocessing = preprocessing_from_json(find_model(recipe.model.name).preprocessing)
        source = recipe.data.source
        split: Split = "train" if (Path(source) / "train").is_dir() else "test"  # a test folder may lack classes
        labels = open_dataset(source, preprocessing, split).label_names or ()
        checkpoint_from_weights(recipe, task.output, labels)
        return
    from edgecnn.pytorch.checkpoint import can_resume
    from edgecnn.pytorch.training.loop import train
    from edgecnn.pytorch.training.progress import for_terminal

    resume = not task.output.exists() and can_resume(context.folder, recipe)
    train(recipe, context.folder, resume=resume, threads=context.threads, progress=for_terminal())


def _export(task: Task, context: Context) -> None:
    from edgecnn.pytorch.export.exporter import export_onnx
    from edgecnn.pytorch.reference import open_reference

    (checkpoint,) = task.parents
    source = read_sidecar(checkpoint)
    sidecar = _inherit(task.sidecar_with_parents(context.recipe), source)
    with open_reference(checkpoint, context.threads) as reference:
        card = find_model(source.facts["model"])
        export_onnx(reference.network, card, task.output, sidecar, max_batch=context.recipe.batch.max)


def _calibrate(task: Task, context: Context) -> None:
    from edgecnn.graph.calibration.collect import collect_ranges
    from edgecnn.graph.calibration.file import write_ranges

    (graph,) = task.parents
    sidecar = read_sidecar(graph)
    dataset = calibration_data(context, sidecar)
    ranges = collect_ranges(graph, dataset, threads=context.threads)
    write_ranges(ranges, task.output, _inherit(task.sidecar_with_parents(context.recipe), sidecar))


def calibration_data(context: Context, sidecar: Sidecar) -> Dataset:
    """The recipe's calibration images, all of them training images."""
    name = context.recipe.data.calibration
    whole = open_split(context, sidecar, "train")
    if name:
        return select(read_manifest(find_manifest(name)), whole)
    count = min(CALIBRATION_IMAGES, len(whole))
    return select(make_manifest(whole, context.recipe.data.source, "train", count), whole)


def _quantize(task: Task, context: Context) -> None:
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.graph.fp16 import to_fp16, write_fp16
    from edgecnn.graph.ptq.quantize import quantize_int8, write_int8
    from edgecnn.graph.simplify import load_graph

    graph, ranges_path = task.parents
    source = read_sidecar(graph)
    sidecar = _inherit(task.sidecar_with_parents(context.recipe), source)
    ranges = read_ranges(ranges_path, source.sha256)
    assert task.variant is not None
    style, settings = task.variant.style, context.recipe.quantize
    if style is None:
        halved, kept = to_fp16(load_graph(graph), ranges)
        _require_clean(halved, context)
        write_fp16(task.output, halved, kept, sidecar, from_ranges=True)
        return
    data = calibration_data(context, source)
    model, report = quantize_int8(
        load_graph(graph), ranges, style, method=settings.method, around=settings.around, data=data
    )
    if style == "tensorrt":
        _require_clean(model, context)
    write_int8(task.output, model, report, sidecar)


def _require_clean(model: Any, context: Context) -> None:
    """What a device of the recipe would refuse is said here, before anybody copies the graph there."""
    from edgecnn.graph.lint import require_clean

    for target in map(find_target, context.recipe.targets):
        if target.kind == "gpu":
            require_clean(model, target)


def _reference(task: Task, context: Context) -> None:
    from edgecnn.measure.predict import predict, write_predictions
    from edgecnn.pytorch.reference import open_reference

    (checkpoint,) = task.parents
    sidecar = read_sidecar(checkpoint)
    dataset = open_split(context, sidecar, "test")
    with open_reference(checkpoint, context.threads) as session:
        predictions = predict(session, dataset, batch=VALIDATION_BATCH)
    write_predictions(task.output, predictions, _inherit(task.sidecar_with_parents(context.recipe), sidecar))


def _build(task: Task, context: Context) -> None:
    (graph,) = task.parents
    target = find_target(task.target)
    recipe = context.recipe
    fields = recipe.values(*task.keys)
    options = BuildOptions(
        target=target.name, batch=recipe.batch, threads=context.threads, recipe=recipe.name, fields=fields
    )
    load_backend(target.backend).engine_from_onnx(graph, task.output, options)


def _validate(task: Task, context: Context) -> None:
    engine, reference = task.parents
    settings = Settings(batch=min(VALIDATION_BATCH, context.recipe.batch.max), threads=context.threads)
    provenance = task.sidecar_with_parents(context.recipe)
    validate_engine(engine, reference, context.recipe.data.source, settings, output=task.output, provenance=provenance)


def _bench(task: Task, context: Context) -> None:
    """Each engine alone, then all of them and the reference in turn on the same input."""
    from edgecnn.measure.comparison import compare_latency
    from edgecnn.measure.latency import measure_latency

    settings = context.recipe.bench
    warmup_ms, duration_s = settings.warmup_ms, settings.duration_s
    with contextlib.ExitStack() as stack:
        reference, first = _latency_reference(context, find_target(task.target).kind)
        sessions = {reference: stack.enter_context(first)} if first is not None else {}
        for engine in task.parents:
            sessions[engine.stem] = stack.enter_context(open_engine(engine, context.threads))
        shape = sessions[task.parents[0].stem].input.shape
        wanted = (settings.batch, *(n or 1 for n in shape[1:]))
        images = np.random.default_rng(0).standard_normal(wanted, np.float32)
        rows = []
        for engine in task.parents:
            alone = measure_latency(
                engine.stem, sessions[engine.stem], images, warmup_ms=warmup_ms, duration_s=duration_s
            )
            rows.append(alone.to_json() | engine_facts(engine))
        ratios = {}
        if len(sessions) > 1:
            compared = compare_latency(sessions, images, warmup_ms=warmup_ms, duration_s=duration_s)
            ratios = {ratio.name: ratio.to_json() for ratio in compared}
    content = {
        "device": task.device or {},
        "reference": reference or task.parents[0].stem,
        "measurements": [row | ratios.get(row["name"], {}) for row in rows],
    }
    write_json_artifact(task.output, content, task.sidecar_with_parents(context.recipe))


def _latency_reference(context: Context, kind: str) -> tuple[str, Session | None]:
    """PyTorch on the same device, where it and the checkpoint are; else the others are compared with the first engine.

    On a GPU that is PyTorch with CUDA: a ratio against a CPU would flatter.
    """
    checkpoint = context.folder / "model.safetensors"
    if not checkpoint.exists() or importlib.util.find_spec("torch") is None:
        return "", None
    from edgecnn.pytorch.reference import cuda_is_available, open_cuda_reference, open_reference

    if kind == "gpu":
        return ("pytorch-cuda", open_cuda_reference(checkpoint)) if cuda_is_available() else ("", None)
    return "pytorch", open_reference(checkpoint, context.threads or available_cores())


def _gate(task: Task, context: Context) -> None:
    verdict = judge_target(context.recipe, task.output.parent)
    write_json_artifact(task.output, verdict.to_json(), task.sidecar_with_parents(context.recipe))


def _report(task: Task, context: Context) -> None:
    from edgecnn.report.markdown import markdown_report

    report = report_of(context.recipe, task.output.parent)
    write_bytes(task.output.with_suffix(".md"), markdown_report(report).encode())
    write_json_artifact(task.output, report, task.sidecar_with_parents(context.recipe))


def _inherit(sidecar: Sidecar, parent: Sidecar) -> Sidecar:
    """What travels with the network from artifact to artifact."""
    return dataclasses.replace(
        sidecar,
        preprocessing=parent.preprocessing,
        labels=parent.labels,
        wnids=parent.wnids,
        facts={**parent.facts, **sidecar.facts},
    )


_WORK: Mapping[str, Callable[[Task, Context], None]] = {
    "train": _train,
    "export": _export,
    "calibrate": _calibrate,
    "quantize": _quantize,
    "reference": _reference,
    "build": _build,
    "validate": _validate,
    "bench": _bench,
    "gate": _gate,
    "report": _report,
}
