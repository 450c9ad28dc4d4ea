"""The engines that a recipe asks for on a target."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecnn.recipe.schema import Precision, Recipe
from edgecnn.results.engine import Scheme
from edgecnn.targets import Target


@dataclass(frozen=True)
class Variant:
    """One engine of a target: its name in reports, its precision, and for INT8 where Q/DQ pairs stand ("implicit":
    nowhere, TensorRT places INT8 by itself)."""

    name: str
    precision: Precision
    scheme: Scheme = ""

    @property
    def graph(self) -> str:
        """The file of the graph that it is built from."""
        if self.scheme == "implicit":
            return "model.fp32.onnx"
        return f"model.{self.precision}-{self.scheme}.onnx" if self.scheme else f"model.{self.precision}.onnx"


def recipe_for(recipe: Recipe, target: Target) -> Recipe:
    """The recipe for one of its targets alone: for a CPU without what TensorRT is told for the others."""
    build = replace(recipe.build, weakly_typed=False, routes=None) if target.kind == "cpu" else recipe.build
    return replace(recipe, targets=(target.name,), build=build)


def route_of(recipe: Recipe, variant: Variant, target: Target) -> str:
    """The build route of an engine; "" where TensorRT chooses it, and for what has none: a CPU, implicit INT8."""
    if variant.scheme == "implicit" or not target.has_build_routes:
        return ""
    return route_words(recipe, variant.precision)


def route_words(recipe: Recipe, precision: Precision) -> str:
    """The build route of a precision, one space between its words; "" where TensorRT chooses it."""
    return " ".join((recipe.build.routes or {}).get(precision, "").split())


def variants_of(recipe: Recipe, *, on_cpu: bool) -> list[Variant]:
    """The engines of a target. On a CPU, INT8 comes twice: in integer kernels, and as TensorRT would round it."""
    made = []
    for precision in recipe.precisions:
        if precision != "int8":
            made.append(Variant(precision, precision))
        elif on_cpu:
            made += [Variant("int8", "int8", "ort-cpu"), Variant("int8-tensorrt", "int8", "tensorrt")]
        else:
            made.append(Variant("int8", "int8", "tensorrt"))
            made += [Variant("int8-implicit", "int8", "implicit")] if recipe.build.weakly_typed else []
    return made
