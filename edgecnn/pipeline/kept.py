"""Of several builds of a target's engines, the ones that are kept: a task for each of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from edgecnn.artifact.run_folder import LATENCY
from edgecnn.bundle.manifest import RANGES
from edgecnn.pipeline.workshop import Task, Workshop, validate_fields
from edgecnn.recipe.variants import Variant
from edgecnn.results.device import Device
from edgecnn.steps.median import BUILT, keep_accuracy, keep_engine, keep_latency
from edgecnn.targets import Target


def kept_tasks(
    shop: Workshop,
    target: Target,
    builds: Sequence[Path],
    engines: Mapping[Variant, Path],
    tools: Mapping[str, str],
    device: Device | None,
    images: Mapping[str, str],
) -> Iterator[Task]:
    """`builds` are the folders in which each build was measured, `engines` where those that are kept go."""
    predictions, latency = shop.folder / "reference.npz", shop.folder / target.name / LATENCY
    built = Device(tensorrt=device.tensorrt) if device and target.built_anywhere else device
    for variant, engine in engines.items():
        accuracy = engine.with_name(f"{variant.name}.accuracy.json")
        made_of = [shop.folder / variant.graph, *([shop.folder / RANGES] if variant.scheme == "implicit" else [])]
        yield Task(
            "bench",
            engine,
            "engine",
            (*made_of, *(where / LATENCY for where in builds)),
            {BUILT: len(builds)},
            partial(keep_engine, builds, engine, variant.name, made_of),
            target.name,
            tools,
            built,
        )
        yield Task(
            "bench",
            accuracy,
            "accuracy",
            (engine, predictions),
            validate_fields(shop.recipe),
            partial(keep_accuracy, builds, accuracy, variant.name, engine, predictions),
            target.name,
            facts=images,
        )
    named = [(variant.name, engine) for variant, engine in engines.items()]
    keep = partial(keep_latency, builds, latency, named)
    yield Task("bench", latency, "latency", tuple(engines.values()), {}, keep, target.name, device=device)
