"""What a recipe makes: one task for each file, in the order of the flow."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.run_folder import BUILDS, DLA_LOG, LATENCY, REPORT, VERDICT, read_latency, read_target_run
from edgecnn.artifact.sidecar import read_sidecar, sha256_of
from edgecnn.artifact.stale import LOCATIONS, TRAIN_IMAGES
from edgecnn.backends import load_backend
from edgecnn.bundle.manifest import RANGES
from edgecnn.data.recipe_input import input_fields
from edgecnn.errors import ArtifactError, BackendError, MeasurementError
from edgecnn.pipeline.kept import kept_tasks
from edgecnn.pipeline.measuring import bench_or_crash, validate_or_crash, verify_or_crash
from edgecnn.pipeline.workshop import (
    Task,
    Workshop,
    identity_of_calibration,
    identity_of_tests,
    image_identity,
    validate_fields,
)
from edgecnn.recipe.factory import split_factory
from edgecnn.recipe.schema import Recipe, fields_of
from edgecnn.recipe.variants import Variant, route_of, variants_of
from edgecnn.results.device import Device
from edgecnn.steps._own import import_fields, import_own
from edgecnn.steps._sessions import VALIDATION_BATCH
from edgecnn.steps.build import build, route_fields
from edgecnn.steps.calibrate import calibrate
from edgecnn.steps.export import export_checkpoint
from edgecnn.steps.gate import accuracy_baseline_path, baseline_path, gate
from edgecnn.steps.qat import train_graph
from edgecnn.steps.quantize import quantize
from edgecnn.steps.reference import reference
from edgecnn.steps.report import report
from edgecnn.steps.train import CHECKPOINT, drop_previous, make_way, take_weights, train
from edgecnn.targets import Target, find_target


def all_tasks(shop: Workshop) -> list[Task]:
    """Every task of a recipe, parents before children."""
    recipe = shop.recipe
    targets = [find_target(name) for name in recipe.targets]
    images = identity_of_tests(shop)
    tasks = [*_host_tasks(shop, targets, images)]
    tasks += [task for target in targets for task in _target_tasks(shop, target, images)]
    fields: dict[Path, Mapping[str, Any]] = {}
    for task in tasks:
        inherited = {key: value for parent in task.parents for key, value in fields.get(parent, {}).items()}
        for key in LOCATIONS:  # images are known by their hash, not by where they lie
            inherited.pop(key, None)
        fields[task.output] = {**inherited, **task.fields}
    return [dataclasses.replace(task, fields=fields[task.output]) for task in tasks]


def _host_tasks(shop: Workshop, targets: list[Target], images: Mapping[str, str]) -> Iterator[Task]:
    recipe, folder = shop.recipe, shop.folder
    checkpoint, fp32, ranges = folder / CHECKPOINT, folder / "model.fp32.onnx", folder / RANGES
    yield from _network_tasks(shop, checkpoint, fp32)
    source = fp32 if recipe.model.is_graph else checkpoint
    wanted = {v.graph: v for target in targets for v in variants_of(recipe, on_cpu=target.kind == "cpu")}
    wanted.pop(fp32.name, None)
    if wanted:
        data = recipe.data
        named = {"data.calibration": data.calibration}
        yield Task(
            "calibrate",
            ranges,
            "ranges",
            (fp32,),
            named,
            lambda: calibrate(
                fp32,
                ranges,
                data=data.source,
                calibration=data.calibration,
                calibration_source=data.calibration_source,
                threads=shop.threads,
                dataset=shop.calibration_images(fp32),
                facts=identity_of_calibration(shop),
                progress=shop.progress("calibrate"),
            ),
            facts=identity_of_calibration(shop),
        )
    for name in sorted(wanted):
        yield _quantize_task(shop, wanted[name], fp32, ranges, targets)
    predictions = folder / "reference.npz"
    yield Task(
        "reference",
        predictions,
        "predictions",
        (source,),
        {},
        lambda: reference(
            source,
            predictions,
            data=recipe.data.source,
            threads=shop.threads,
            dataset=shop.test_images(source),
            facts=dict(images),
            progress=shop.progress("reference"),
            trust_code=shop.trust_code,
        ),
        facts=images,
    )


def _network_tasks(shop: Workshop, checkpoint: Path, fp32: Path) -> Iterator[Task]:
    """The weights, where there are any for PyTorch, and the float32 graph."""
    recipe, model = shop.recipe, shop.recipe.model
    code = split_factory(model.python)[0] if model.python else None
    given = (*((code,) if code else ()), Path(model.weights))
    trained, seen = {**recipe.values("model", "train", "transfer"), **input_fields(recipe)}, dict[str, str]()
    if recipe.train.loss is not None:
        trained |= recipe.values("verification")
    if recipe.train.epochs:
        trained |= recipe.values("data.source")
        seen = image_identity(TRAIN_IMAGES, recipe.data.source, "train")
    if not model.is_graph:
        parents = _with_those_found(checkpoint, given)
        yield Task("train", checkpoint, "checkpoint", parents, trained, lambda: _train(shop), facts=seen)
    if model.onnx:
        named = (Path(model.onnx), *(() if model.is_graph else (checkpoint,)))
        yield Task(
            "export",
            fp32,
            "graph",
            _with_those_found(fp32, named),
            import_fields(recipe),
            lambda: import_own(recipe, fp32, None if model.is_graph else checkpoint),
        )
    else:
        yield Task(
            "export",
            fp32,
            "graph",
            (checkpoint,),
            {"batch.max": recipe.batch.max, **fields_of("export", recipe.export)},
            lambda: export_checkpoint(
                checkpoint, fp32, recipe.batch, shop.threads, recipe.export, trust_code=shop.trust_code
            ),
        )


def _with_those_found(made: Path, named: tuple[Path, ...]) -> tuple[Path, ...]:
    """Those `named` that are here, and what `made` was made of besides: code that they import, and what stayed
    behind on another machine. One that only lies elsewhere by now, as seen from `made`, is what it was."""
    named = tuple(p for p in named if p.is_file())
    with contextlib.suppress(ArtifactError):
        found = {made.parent / name: digest for name, digest in read_sidecar(made).parents.items()}
        gone = {(p.name, digest) for p, digest in found.items() if not p.exists()}
        named = tuple(p for p in named if not gone or (p.name, sha256_of(p)) not in gone)
        known = {p.absolute().resolve() for p in named}
        return (*(p for p in found if p.resolve() not in known), *named)
    return named


def _quantize_task(shop: Workshop, variant: Variant, fp32: Path, ranges: Path, targets: list[Target]) -> Task:
    settings, output = shop.recipe.quantize, shop.folder / variant.graph
    precision = "int8" if variant.precision == "int8" else "fp16"
    if precision == "int8" and shop.recipe.qat.epochs:
        return _qat_task(shop, variant, fp32, ranges, targets)
    return Task(
        "quantize",
        output,
        "graph",
        (fp32, ranges),
        fields_of("quantize", settings) if precision == "int8" else {},
        lambda: quantize(
            fp32,
            output,
            precision="int8" if precision == "int8" else "fp16",
            scheme="ort-cpu" if variant.scheme == "ort-cpu" else "tensorrt",
            method=settings.method,
            around=settings.around,
            exclude=(settings.exclude or ()) if precision == "int8" else (),
            global_pool=settings.global_pool,
            ranges=ranges,
            dataset=shop.calibration_images(fp32) if precision == "int8" else None,
            targets=targets,
            threads=shop.threads,
            progress=shop.progress("quantize"),
        ),
    )


def _qat_task(shop: Workshop, variant: Variant, fp32: Path, ranges: Path, targets: list[Target]) -> Task:
    recipe, seen = shop.recipe, image_identity(TRAIN_IMAGES, shop.recipe.data.source, "train")

    def make() -> None:
        from edgecnn.pytorch.training.progress import open_progress

        images = shop.calibration_images(fp32)
        train_graph(recipe, shop.folder, variant, images, targets, threads=shop.threads, progress=open_progress())

    fields = {**fields_of("quantize", recipe.quantize), **fields_of("qat", recipe.qat)}
    return Task("quantize", shop.folder / variant.graph, "graph", (fp32, ranges), fields, make, facts=seen)


def _train(shop: Workshop) -> None:
    if shop.recipe.train.epochs == 0:
        make_way(shop.folder / CHECKPOINT, shop.retrain)
        take_weights(shop.recipe, shop.folder / CHECKPOINT, trust_code=shop.trust_code)
        drop_previous(shop.folder / CHECKPOINT)
        return
    from edgecnn.pytorch.training.progress import open_progress

    resume = None if not (shop.folder / CHECKPOINT).exists() else False
    train(
        shop.recipe,
        shop.folder,
        resume=resume,
        retrain=shop.retrain,
        threads=shop.threads,
        progress=open_progress(),
    )


def _target_tasks(shop: Workshop, target: Target, images: Mapping[str, str]) -> Iterator[Task]:
    recipe, folder = shop.recipe, shop.folder / target.name
    _, device = _here(target, shop.threads)
    times, latency, verdict, written = recipe.build.rebuilds, folder / LATENCY, folder / VERDICT, folder / REPORT
    builds = [folder / BUILDS / str(k) for k in range(1, times + 1)] if times > 1 else []
    for where in builds or [folder]:
        yield from _measured_tasks(shop, target, where, images)
    if builds:
        kept = _engines(recipe, target, folder)
        yield from kept_tasks(shop, target, builds, kept, *_here(target, shop.threads), images)
    baselines = [baseline_path(recipe, _measured_on(latency) or device or Device())]
    baselines += [accuracy_baseline_path(recipe, target.backend, precision) for precision in recipe.precisions]
    judged = [path for where in (folder, *builds) for path in (*_accuracies(recipe, target, where), where / LATENCY)]
    judged_by = (*judged, *sorted(folder.glob(DLA_LOG)), *(path for path in baselines if path.is_file()))
    tolerances = fields_of("tolerances", recipe.tolerances)
    yield Task(
        "gate", verdict, "verdict", judged_by, tolerances, lambda: gate(read_target_run(folder), recipe), target.name
    )
    title = {"title": recipe.title}
    yield Task(
        "report", written, "report", (verdict,), title, lambda: report(read_target_run(folder), recipe), target.name
    )


def _engines(recipe: Recipe, target: Target, folder: Path) -> dict[Variant, Path]:
    suffix = load_backend(target.backend).SUFFIXES[0]
    return {v: folder / f"{v.name}{suffix}" for v in variants_of(recipe, on_cpu=target.kind == "cpu")}


def _accuracies(recipe: Recipe, target: Target, folder: Path) -> list[Path]:
    return [folder / f"{variant.name}.accuracy.json" for variant in _engines(recipe, target, folder)]


def _measured_tasks(shop: Workshop, target: Target, folder: Path, images: Mapping[str, str]) -> Iterator[Task]:
    """Every engine of a target, its accuracy, and the latencies of all, in a folder."""
    recipe, engines = shop.recipe, _engines(shop.recipe, target, folder)
    tools, device = _here(target, shop.threads)
    for variant, accuracy in zip(engines, _accuracies(recipe, target, folder), strict=True):
        yield from _engine_tasks(shop, target, variant, engines[variant], accuracy, tools, device, images)
    yield Task(
        "bench",
        folder / LATENCY,
        "latency",
        tuple(engines.values()),
        fields_of("bench", recipe.bench),
        lambda: bench_or_crash(
            {variant.name: engine for variant, engine in engines.items()},
            folder / LATENCY,
            checkpoint=shop.folder / CHECKPOINT,
            on_gpu=target.kind == "gpu",
            settings=recipe.bench,
            progress=shop.progress("bench"),
            threads=shop.threads,
            device=device,
            trust_code=shop.trust_code,
        ),
        target.name,
        device=device,
    )


def _measured_on(latency: Path) -> Device | None:
    """What the latencies that are there were measured on: with locked clocks or not, which nobody knows before."""
    with contextlib.suppress(ArtifactError, MeasurementError):
        device: Device = read_latency(latency).content.device
        return device
    return None


def _engine_tasks(
    shop: Workshop,
    target: Target,
    variant: Variant,
    engine: Path,
    accuracy: Path,
    tools: Mapping[str, str],
    device: Device | None,
    images: Mapping[str, str],
) -> Iterator[Task]:
    recipe, geometry = shop.recipe, shop.recipe.input.geometry
    weak, route = variant.scheme == "implicit", route_of(shop.recipe, variant, target)
    graph, predictions = shop.folder / variant.graph, shop.folder / "reference.npz"
    yield Task(
        "build",
        engine,
        "engine",
        (graph, shop.folder / RANGES) if weak else (graph,),
        {
            **fields_of("batch", recipe.batch),
            **(recipe.values("build.weakly_typed", "quantize.method") if weak else {}),
            **route_fields(route),
        },
        lambda: build(
            graph,
            engine,
            target=target.name,
            batch=recipe.batch,
            threads=shop.threads,
            build_route=route,
            weakly_typed=weak,
            ranges=shop.folder / RANGES if weak else None,
            method=recipe.quantize.method,
            fresh_timings=recipe.build.rebuilds > 1,
        ),
        target.name,
        tools,
        Device(tensorrt=device.tensorrt) if device and target.built_anywhere else device,
    )
    if recipe.train.loss is not None:
        yield _verify_task(shop, target, variant, engine, accuracy, images)
        return
    yield Task(
        "validate",
        accuracy,
        "accuracy",
        (engine, predictions),
        validate_fields(recipe),
        lambda: validate_or_crash(
            engine,
            predictions,
            accuracy,
            name=variant.name,
            images=shop.test_source,
            data=recipe.data.source,
            batch=min(VALIDATION_BATCH, recipe.batch.max),
            threads=shop.threads,
            threshold=recipe.decision.threshold,
            reject=recipe.decision.reject,
            dataset=lambda: shop.test_images(engine),
            geometry=geometry,
            facts=dict(images),
            progress=shop.progress("validate"),
        ),
        target.name,
        facts=images,
    )


def _verify_task(
    shop: Workshop, target: Target, variant: Variant, engine: Path, accuracy: Path, images: Mapping[str, str]
) -> Task:
    predictions = shop.folder / "reference.npz"
    return Task(
        "validate",
        accuracy,
        "accuracy",
        (engine, predictions),
        {},
        lambda: verify_or_crash(
            engine,
            predictions,
            accuracy,
            name=variant.name,
            data=shop.test_source,
            batch=min(VALIDATION_BATCH, shop.recipe.batch.max),
            threads=shop.threads,
            dataset=lambda: shop.test_images(engine),
            facts=dict(images),
            progress=shop.progress("validate"),
        ),
        target.name,
        facts=images,
    )


def _here(target: Target, threads: int | None) -> tuple[dict[str, str], Device | None]:
    """Tools and device that an engine depends on; unknown (and not compared) where the runtime or the GPU is absent."""
    backend = load_backend(target.backend)
    try:
        device, tools = backend.device(threads), backend.tools()
    except BackendError:
        return {}, None
    return tools, device if tools else None
