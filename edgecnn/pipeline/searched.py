"""What a recipe and its run say of a search among its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.bundle.manifest import RANGES
from edgecnn.errors import ArtifactError
from edgecnn.pipeline.workshop import Workshop
from edgecnn.recipe.schema import Recipe
from edgecnn.targets import find_target


def search_arguments(recipe: Recipe, folder: Path, target: str) -> Mapping[str, Any]:
    """The arguments of `tuning.search` for one `target` of a recipe (left out: its first), whose graph and ranges lie
    in its run's `folder`; raises `ArtifactError` where they do not."""
    graph, ranges = folder / "model.fp32.onnx", folder / RANGES
    for path in (graph, ranges):
        if not path.is_file():
            raise ArtifactError(
                f"{path}: no such file: the recipe has not been run so far",
                f"make it first: edgecnn run {recipe.name} --until quantize",
            )
    shop, settings = Workshop(recipe, folder), recipe.quantize
    return {
        "graph": graph,
        "ranges": ranges,
        "data": recipe.data.source,
        "test": shop.test_source,
        "calibration": shop.calibration_images(graph),
        "target": find_target(target or recipe.targets[0]).name,
        "method": settings.method,
        "around": settings.around,
        "exclude": settings.exclude or (),
        "global_pool": settings.global_pool,
        "batch": recipe.bench.batch,
    }
