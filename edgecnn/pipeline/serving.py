"""From a run to what serves its graph: the folder that Triton, DeepStream, trtexec or a C++ program starts from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from edgecnn.artifact.sidecar import verified_sidecar
from edgecnn.bundle.cpp import write_for_cpp
from edgecnn.bundle.deepstream import write_for_deepstream
from edgecnn.bundle.manifest import RANGES
from edgecnn.bundle.served import Served, whole_folder
from edgecnn.bundle.triton import write_for_triton
from edgecnn.bundle.trtexec import write_for_trtexec
from edgecnn.data.open import listing_each_folder_once
from edgecnn.errors import ArtifactError, RecipeError
from edgecnn.pipeline.device import bundled_images
from edgecnn.pipeline.staleness import stale_tasks
from edgecnn.pipeline.tasks import all_tasks
from edgecnn.pipeline.workshop import HOST, Task, Workshop
from edgecnn.recipe.rules import require_classifier
from edgecnn.recipe.schema import Precision, Recipe
from edgecnn.recipe.variants import route_words
from edgecnn.steps._arguments import require_packages
from edgecnn.targets import FIRST_BUILD_ROUTES, Target, targets, version_tuple

DESTINATIONS: dict[str, Callable[[Served, Path], None]] = {
    "triton": write_for_triton,
    "deepstream": write_for_deepstream,
    "trtexec": write_for_trtexec,
    "cpp": write_for_cpp,
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@listing_each_folder_once()
def bundle_for_serving(
    recipe: Recipe,
    folder: Path,
    output: Path,
    destination: str,
    *,
    precision: Precision | None = None,
    tensorrt: str = "",
    dla: int | None = None,
) -> Served:
    """Fill the new folder `output` with what a `destination` needs of a run, whole or not at all.

    The graph is that of `precision`, by default the smallest that the recipe has; `tensorrt` is the version there, by
    default the oldest that this project builds for on the recipe's targets; `dla` is the core that trtexec builds for
    (none: the GPU). Raises `RecipeError` for a precision that the recipe does not have, and where the recipe has a
    build route that the script would not, `ArtifactError` for a run that is not up to date, `WriteError`, and what the
    destination raises.
    """
    require_classifier(recipe, "a bundle")
    require_packages("quantize")
    if dla is not None and destination != "trtexec":
        raise RecipeError(f"--dla {dla} for {destination}: the script for a DLA is trtexec's", "--for trtexec")
    chosen = precision or max(recipe.precisions, key=PRECISIONS.index)
    if chosen not in recipe.precisions:
        raise RecipeError(
            f"{folder}: the recipe's precisions are {', '.join(recipe.precisions)}, not {chosen}", "name one of them"
        )
    version = tensorrt or _oldest_tensorrt(recipe)
    if not re.fullmatch(r"\d{1,2}\.\d{1,2}(\.\d{1,2})?", version):
        raise RecipeError(f"--tensorrt {version}: no version of TensorRT", "write it as 10.3, or 8.6.2")
    _require_routes(recipe, folder, chosen, version, dla)
    with whole_folder(output) as made:
        for task, reason in stale_tasks(_tasks_of_host(recipe, folder)):
            raise ArtifactError(
                f"{task.output}: {reason}", f"bring the run up to date first: `edgecnn run {folder} --until reference`"
            )
        graph = folder / ("model.int8-tensorrt.onnx" if chosen == "int8" else f"model.{chosen}.onnx")
        served = Served(
            recipe, chosen, graph, verified_sidecar(graph), folder / "model.fp32.onnx", folder / RANGES, version, dla
        )
        verified_sidecar(served.fp32)
        DESTINATIONS[destination](served, made)
    return served


def _require_routes(recipe: Recipe, folder: Path, precision: Precision, version: str, dla: int | None) -> None:
    """Raise `RecipeError` where the recipe has a build route for what is served, and the script would not."""
    if not route_words(recipe, precision) or (dla is None and version_tuple(version) >= FIRST_BUILD_ROUTES):
        return
    why = (
        f"--tensorrt {version}: build routes exist from TensorRT 11.1 on" if dla is None else f"--dla {dla} takes none"
    )
    raise RecipeError(
        f"{folder}: its recipe has build.routes.{precision}, and {why}",
        ("name the TensorRT there, 11.1 or later; or " if dla is None else "")
        + f"do without routes: edgecnn run {folder} --until reference --set 'build.routes={{}}'",
    )


def _tasks_of_host(recipe: Recipe, folder: Path) -> list[Task]:
    shop = Workshop(recipe, folder, images=bundled_images(recipe, folder))
    return [task for task in all_tasks(shop) if task.target == HOST]


def _oldest_tensorrt(recipe: Recipe) -> str:
    """Which every target of the recipe that runs plans of TensorRT has, or the oldest of all."""
    known = targets()
    wanted = [known[name] for name in recipe.targets if _runs_tensorrt(known[name])] or [
        target for target in known.values() if _runs_tensorrt(target) and not target.compute_capability
    ]
    return max((target.tensorrt_min for target in wanted), key=version_tuple)


def _runs_tensorrt(target: Target) -> bool:
    return target.has_implicit_int8 and target.tensorrt_min != ""
