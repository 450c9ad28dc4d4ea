"""Whether the targets of a run can have the engines that a recipe asks for beside the others."""

from __future__ import annotations

from collections.abc import Iterable

from edgecnn.backends import load_backend
from edgecnn.errors import DeviceError
from edgecnn.recipe.schema import Recipe
from edgecnn.recipe.variants import variants_of
from edgecnn.targets import find_target, implicit_mismatch


def require_implicit(recipe: Recipe, present: Iterable[str], threads: int | None) -> None:
    """Raise `DeviceError`, before anything is built, where the TensorRT of a target that is this machine has no
    implicit quantization, and the recipe asks for it."""
    for name in present:
        target = find_target(name)
        if not any(v.scheme == "implicit" for v in variants_of(recipe, on_cpu=target.kind == "cpu")):
            continue
        if reason := implicit_mismatch(load_backend(target.backend).device(threads).tensorrt):
            raise DeviceError(
                f"{recipe.path}: build.weakly_typed: {reason}", "go on with --set build.weakly_typed=false"
            )
