"""Train INT8 graphs: what quantization lost is learned back, and the graph stays the same but for its weights."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, tool_versions
from edgecnn.artifact.stale import TRAIN_IMAGES, stale_reason
from edgecnn.artifact.write import write_artifact
from edgecnn.bundle.manifest import RANGES
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import images_sha256
from edgecnn.errors import ArtifactError, GraphError, RecipeError, TrainingError
from edgecnn.machine.cpu import cpu_device
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.rules import find_contradictions
from edgecnn.recipe.schema import Recipe, fields_of
from edgecnn.recipe.variants import Variant, variants_of
from edgecnn.results.qat import QatResult
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_packages
from edgecnn.steps._shared import rank_and_size
from edgecnn.steps.calibrate import calibration_images
from edgecnn.steps.quantize import quantize
from edgecnn.targets import Target, find_target
from edgecnn.zoo import find_model

if TYPE_CHECKING:
    import onnx

    from edgecnn.pytorch.qat.train import Trained
    from edgecnn.pytorch.training.progress import Progress

PROVEN_IMAGES = 64
LEAST_SQNR_DB = 30.0  # between the network that was trained and the graph of it in ONNX Runtime
STATE = "training-state.pt"


def train_quantized(
    recipe: Recipe | FilePath,
    folder: FilePath | None = None,
    *,
    resume: bool | None = False,
    retrain: bool = False,
    threads: int | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> tuple[QatResult, ...]:
    """Train the INT8 graphs of a recipe's targets for `qat.epochs`; returns what became of each.

        import edgecnn as ec
        ec.run("lenet5-digits", until="calibrate")
        ec.train_quantized(ec.load_recipe("lenet5-digits", ["qat.epochs=2"]))

    `folder` (runs/RECIPE where it is left out) holds the float32 graph and its ranges. Raises `ArtifactError` where it
    does not, and for a graph that was trained before, unless `resume` or `retrain`; else as `train_graph` does.
    """
    require_at_least(1, threads=threads)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(os.fspath(recipe))
    folder = path_or_none(folder) or Path("runs") / recipe.name
    targets = [find_target(name) for name in recipe.targets]
    variants = {v.graph: v for target in targets for v in variants_of(recipe, on_cpu=target.kind == "cpu")}
    wanted = [v for v in variants.values() if v.precision == "int8" and v.scheme != "implicit"]
    _require_trainable(recipe)
    fp32, data = folder / "model.fp32.onnx", recipe.data
    for path in (fp32, folder / RANGES):
        if not path.is_file():
            raise ArtifactError(
                f"{path}: no such file: quantization-aware training begins with a trained network and its ranges",
                f"make them with `edgecnn run {recipe.path if recipe.path.is_file() else recipe.name} "
                f"--until calibrate --out {folder}`",
            )
    if (found := read_sidecar(fp32).facts.get("model")) != (name := find_model(recipe.model.name).name):
        raise ArtifactError(
            f"{fp32}: is of {found}, and {recipe.path} of {name}",
            "name the recipe of this run, or another folder: --out",
        )
    for variant in wanted:
        _require_unfinished(folder / variant.graph, resume, retrain)
    images = calibration_images(fp32, data.calibration_source or data.source, calibration=data.calibration)
    begun = [variant for variant in wanted if (folder / "qat" / variant.scheme / STATE).is_file()]
    return tuple(
        train_graph(
            recipe,
            folder,
            variant,
            images,
            targets,
            resume=None if begun and variant not in begun else resume,  # interrupted in the graph before
            threads=threads,
            skip_corrupt=skip_corrupt,
            progress=progress,
        )
        for variant in wanted
    )


def train_graph(
    recipe: Recipe,
    folder: Path,
    variant: Variant,
    images: Dataset,
    targets: list[Target],
    *,
    resume: bool | None = None,
    threads: int | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> QatResult:
    """Write one INT8 graph of `folder`: quantized as `[quantize]` says with the calibration `images`, then trained.

    The graph that it begins with, and the checkpoints, lie in `folder`/qat/SCHEME. Raises `GraphError` for a node that
    cannot be trained, and where the graph does not compute what was trained, `TrainingError` under torchrun; the errors
    of `quantize` and of training.
    """
    from edgecnn.graph.load import load_graph
    from edgecnn.graph.serving import load_body
    from edgecnn.graph.simplify import simplify_graph
    from edgecnn.pytorch.qat.train import train_quantized as run_training

    if (processes := rank_and_size()[1]) > 1:
        raise TrainingError(
            f"quantization-aware training of {processes} processes", "start it without torchrun: one trains"
        )
    output, work = folder / variant.graph, folder / "qat" / variant.scheme
    start, parents = work / "start.onnx", (folder / "model.fp32.onnx", folder / RANGES)
    _prepare(recipe, variant, start, parents, images, targets, threads, resume=resume)
    source = read_sidecar(start)
    trained = run_training(
        recipe,
        load_body(start),
        simplify_graph(load_body(parents[0])),
        source,
        work,
        resume=resume,
        threads=threads,
        skip_corrupt=skip_corrupt,
        progress=progress,
    )
    made = trained.network.written_to(load_graph(start))
    sqnr_db = _prove(trained, trained.network.written_to(load_body(start)), images)
    result = trained.result
    known = {TRAIN_IMAGES: images_sha256(recipe.data.source, "train")}
    sidecar = dataclasses.replace(
        source,
        made_by="edgecnn train --qat",
        parents=parents_of(output, *parents),
        fields={**source.fields, **fields_of("qat", recipe.qat)},
        tools={**source.tools, **tool_versions(*TOOLS["train"])},
        device=cpu_device(source.device.threads if source.device else None),
        facts={
            **source.facts,
            **{key: value for key, value in known.items() if value},
            "qat_best_epoch": result.best_epoch,
            "qat_validation_top1_pct": result.validation_top1_pct,
            "qat_sqnr_db": round(sqnr_db, 2),
        },
    )
    _write(output, made, sidecar)
    return QatResult(
        graph=output,
        scheme=variant.scheme,
        epochs=result.epochs,
        best_epoch=result.best_epoch,
        validation_top1_pct=result.validation_top1_pct,
        validation_n=result.validation_n,
        top1_pct=result.top1_pct,
        n=result.n,
        sqnr_db=round(sqnr_db, 2),
        seconds=result.seconds,
        corrupt_images=result.corrupt_images,
    )


def _require_trainable(recipe: Recipe) -> None:
    if recipe.qat.epochs == 0:
        asked = dataclasses.replace(recipe, qat=dataclasses.replace(recipe.qat, epochs=1))
        if problems := find_contradictions(asked):
            raise RecipeError(f"{recipe.path}: {problems[0]}", "leave --qat out")
        raise RecipeError(
            f"{recipe.path}: qat.epochs is 0: there is nothing to train", "set it: --set qat.epochs=2, or [qat] epochs"
        )
    require_packages("train")
    require_packages("quantize")


def _require_unfinished(graph: Path, resume: bool | None, retrain: bool) -> None:
    """Raise `ArtifactError` for a graph that was trained, which would be replaced unasked."""
    if resume or retrain or not graph.exists():
        return
    with contextlib.suppress(ArtifactError):
        if not read_sidecar(graph).fields.get("qat.epochs"):
            return
    raise ArtifactError(
        f"{graph}: a trained INT8 graph is there; weights are not replaced unasked",
        "--resume finishes what was interrupted, --retrain trains it anew; or choose another folder with --out",
    )


def _prepare(
    recipe: Recipe,
    variant: Variant,
    start: Path,
    parents: tuple[Path, Path],
    images: Dataset,
    targets: list[Target],
    threads: int | None,
    *,
    resume: bool | None,
) -> None:
    """The graph to begin with, unless it is there; another one ends what was trained of the one before, which is not
    resumed: `ArtifactError`."""
    settings, (fp32, ranges) = recipe.quantize, parents
    fields = {**read_sidecar(fp32).fields, **read_sidecar(ranges).fields, **fields_of("quantize", settings)}
    reason = stale_reason(start, Sidecar(kind="graph", fields=fields), parents)
    if reason is None:
        return
    if resume and (start.parent / STATE).is_file():
        raise ArtifactError(
            f"{start}: the run began with another graph: {reason}",
            "resume with the settings it was started with, or start anew without --resume",
        )
    start.parent.mkdir(parents=True, exist_ok=True)
    (start.parent / STATE).unlink(missing_ok=True)
    quantize(
        fp32,
        start,
        precision="int8",
        scheme="ort-cpu" if variant.scheme == "ort-cpu" else "tensorrt",
        method=settings.method,
        around=settings.around,
        exclude=settings.exclude or (),
        global_pool=settings.global_pool,
        ranges=ranges,
        dataset=images,
        targets=targets,
        threads=threads,
    )


def _prove(trained: Trained, graph: onnx.ModelProto, images: Dataset) -> float:
    """SQNR, in dB, of the graph's logits in ONNX Runtime against those of the network; raises `GraphError` where they
    are not the same but for rounding."""
    from edgecnn.backends._half import rounded_to_fp16
    from edgecnn.graph.ptq.candidates import compute_logits

    shown = images.subset(np.linspace(0, len(images) - 1, min(len(images), PROVEN_IMAGES)).astype(int).tolist())
    expected, found = trained.logits(shown), compute_logits(rounded_to_fp16(graph), shown)
    noise = float(np.square(expected.astype(np.float64) - found).sum())
    sqnr_db = 10 * np.log10(float(np.square(expected, dtype=np.float64).sum()) / noise) if noise else 200.0
    if not sqnr_db >= LEAST_SQNR_DB:
        raise GraphError(
            f"the INT8 graph does not compute what was trained: SQNR {sqnr_db:.1f} dB, not {LEAST_SQNR_DB:g} or more",
            "keep the graph without training (qat.epochs = 0), and report it: this is a fault of edgecnn",
        )
    return float(sqnr_db)


def _write(output: Path, model: onnx.ModelProto, sidecar: Sidecar) -> None:
    import onnx

    write_artifact(output, lambda temporary: onnx.save(model, str(temporary)), sidecar)
