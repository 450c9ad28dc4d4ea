"""What a recipe makes: one task for each file, in the order of the flow."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgecnn.artifact.sidecar import Sidecar, parents_of, tool_versions
from edgecnn.backends import load_backend
from edgecnn.data.calibration_set import find_manifest, read_manifest
from edgecnn.data.open import images_sha256
from edgecnn.errors import BackendError, DataError
from edgecnn.recipe.schema import Recipe
from edgecnn.targets import Target, find_target

_RUNTIMES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt")
TOOLS = {
    "train": ("torch", "torchvision"),
    "export": ("torch", "onnx"),
    "calibrate": ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu"),
    "quantize": ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu"),
    "reference": ("numpy", "torch"),
    "build": _RUNTIMES,
    "validate": _RUNTIMES,
    "bench": _RUNTIMES,
    "gate": (),
    "report": (),
}
HOST = ""  # the target of tasks that belong to none


@dataclass(frozen=True)
class Variant:
    """One engine of a target: its name in reports, and the graph that it is built from."""

    name: str
    graph: str

    @property
    def style(self) -> Literal["tensorrt", "cpu"] | None:
        """Where Q/DQ stand; None for a graph without them."""
        styles: dict[str, Literal["tensorrt", "cpu"]] = {
            "model.int8-tensorrt.onnx": "tensorrt",
            "model.int8-cpu.onnx": "cpu",
        }
        return styles.get(self.graph)


@dataclass(frozen=True)
class Task:
    """One file and how it comes about.

    `keys` are the recipe values that it depends on, through its parents too: a device judges a graph whose checkpoint
    stayed behind.
    """

    step: str
    output: Path
    kind: str
    parents: tuple[Path, ...] = ()
    keys: tuple[str, ...] = ()
    target: str = HOST
    variant: Variant | None = None
    tools: dict[str, str] = dataclasses.field(default_factory=dict)
    device: dict[str, Any] | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def sidecar(self, recipe: Recipe) -> Sidecar:
        """What the sidecar of `output` would say if it were made now (its parents are added on writing)."""
        return Sidecar(
            kind=self.kind,
            made_by=f"edgecnn run {recipe.name}: {self.step}",
            recipe=recipe.name,
            fields=recipe.values(*self.keys),
            tools=self.tools,
            device=self.device,
            facts=self.facts,
        )

    def sidecar_with_parents(self, recipe: Recipe) -> Sidecar:
        """The same, with the sha256 of the parents as they are now and the versions of what may take part."""
        return dataclasses.replace(
            self.sidecar(recipe),
            parents=parents_of(self.output, *self.parents),
            tools=self.tools or tool_versions(*TOOLS[self.step]),
        )


def variants(recipe: Recipe, target: Target) -> list[Variant]:
    """The engines of a target. On a CPU, INT8 comes twice: in integer kernels, and as TensorRT would round it."""
    made = []
    for precision in recipe.precisions:
        if precision != "int8":
            made.append(Variant(precision, f"model.{precision}.onnx"))
            continue
        if target.kind == "cpu":
            made.append(Variant("int8", "model.int8-cpu.onnx"))
            made.append(Variant("int8-tensorrt", "model.int8-tensorrt.onnx"))
        else:
            made.append(Variant("int8", "model.int8-tensorrt.onnx"))
    return made


def device_key(device: Mapping[str, Any]) -> str:
    """What latencies may be compared with each other, as a file name: GPU, compute capability, TensorRT major.minor
    and power mode, or the processor and its threads."""
    tensorrt = ".".join(str(device.get("tensorrt") or "").split(".")[:2])
    parts = [
        device.get("board") or device.get("gpu_name") or device.get("cpu") or "unknown",
        f"sm{device['compute_capability']}" if device.get("compute_capability") else "",
        f"trt{tensorrt}" if tensorrt else "",
        device.get("power_mode") or "",
        f"{device['threads']}threads" if device.get("threads") else "",
    ]
    return re.sub(r"[^a-z0-9.]+", "-", "_".join(str(p) for p in parts if p).lower()).strip("-")


def accepted_path(recipe: Recipe, device: Mapping[str, Any]) -> Path:
    """Where the accepted numbers of a recipe stand for a device: beside the recipe used."""
    return recipe.path.parent / "accepted" / recipe.name / f"{device_key(device)}.json"


def all_tasks(recipe: Recipe, folder: Path, threads: int | None = None) -> list[Task]:
    """Every task of a recipe, parents before children."""
    targets = [find_target(name) for name in recipe.targets]
    images = _test_images(recipe)
    own = [*_host_tasks(recipe, folder, targets, images)]
    own += [t for target in targets for t in _target_tasks(recipe, folder, target, threads, images)]
    keys: dict[Path, tuple[str, ...]] = {}
    for task in own:
        inherited = [key for parent in task.parents for key in keys.get(parent, ())]
        keys[task.output] = tuple(dict.fromkeys([*inherited, *task.keys]))
    return [dataclasses.replace(task, keys=keys[task.output]) for task in own]


def _host_tasks(recipe: Recipe, folder: Path, targets: list[Target], images: dict[str, Any]) -> Iterator[Task]:
    checkpoint, fp32, ranges = folder / "model.safetensors", folder / "model.fp32.onnx", folder / "model.calib.json"
    start = Path(recipe.model.weights)
    given = (start,) if start.is_file() else ()
    yield Task("train", checkpoint, "checkpoint", given, ("model", "data.source", "train", "transfer"))
    yield Task("export", fp32, "graph", (checkpoint,), ("batch.max",))
    graphs = sorted({v.graph for target in targets for v in variants(recipe, target)} - {fp32.name})
    if graphs:
        named = ("data.source", "data.calibration")
        yield Task("calibrate", ranges, "ranges", (fp32,), named, facts=_calibration_images(recipe))
    for graph in graphs:
        keys = ("quantize",) if "int8" in graph else ()
        style = Variant("", graph)
        yield Task("quantize", folder / graph, "graph", (fp32, ranges), keys, variant=style)
    predictions = folder / "reference.npz"
    yield Task("reference", predictions, "predictions", (checkpoint,), ("data.source",), facts=images)


def _test_images(recipe: Recipe) -> dict[str, Any]:
    """What changes with the test images; nothing where they are not here."""
    found = images_sha256(recipe.data.source, "test")
    return {} if found is None else {"test_images_sha256": found}


def _calibration_images(recipe: Recipe) -> dict[str, Any]:
    """Which images the recipe's manifest names; nothing where it has none, or where the manifest stayed behind."""
    if recipe.data.calibration:
        with contextlib.suppress(DataError):
            return {"data_sha256": read_manifest(find_manifest(recipe.data.calibration)).sha256}
    return {}


def _target_tasks(
    recipe: Recipe, folder: Path, target: Target, threads: int | None, images: dict[str, Any]
) -> Iterator[Task]:
    backend = load_backend(target.backend)
    tools, device = _here(target, threads)
    made: list[Path] = []
    engines: list[Path] = []
    for variant in variants(recipe, target):
        graph, engine = folder / variant.graph, folder / target.name / f"{variant.name}{backend.SUFFIX}"
        accuracy = folder / target.name / f"{variant.name}.accuracy.json"
        yield Task("build", engine, "engine", (graph,), ("batch",), target.name, variant, tools, device)
        parents = (engine, folder / "reference.npz")
        yield Task("validate", accuracy, "accuracy", parents, ("data.source",), target.name, variant, facts=images)
        engines.append(engine)
        made.append(accuracy)
    latency, verdict = folder / target.name / "latency.json", folder / target.name / "verdict.json"
    yield Task("bench", latency, "latency", tuple(engines), ("bench",), target.name, device=device)
    accepted = accepted_path(recipe, device or {})
    judged_by = (accepted,) if accepted.is_file() else ()
    yield Task("gate", verdict, "verdict", (*made, latency, *judged_by), ("tolerances",), target.name)
    report = folder / target.name / "report.json"
    yield Task("report", report, "report", (verdict,), ("title",), target.name)


def _here(target: Target, threads: int | None) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Tools and device that an engine depends on; unknown (and not compared) where the runtime or the GPU is absent."""
    try:
        device = load_backend(target.backend).device(threads)
    except BackendError:
        return {}, None
    if target.backend == "trt":
        return {"tensorrt": device["tensorrt"]}, device
    tools = tool_versions("onnxruntime", "onnxruntime-gpu")
    return tools, device if tools else None
