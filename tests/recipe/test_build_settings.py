"""[build]: what goes together, and which engines it adds."""

from __future__ import annotations

import pytest

from edgecnn.errors import RecipeError
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.variants import route_of, variants_of
from edgecnn.targets import find_target

IMPLICIT = "int8-implicit"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (['precisions=["fp32", "fp16"]'], "precisions has no 'int8'"),
        (['targets=["rtx"]'], "target 'rtx' is another's"),
        (['targets=["cpu"]'], "target 'cpu' is another's"),
        (["build.weakly_typed=1"], "build.weakly_typed"),
    ],
)
def test_what_contradicts_it_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("lenet5-digits", ['targets=["gpu"]', "build.weakly_typed=true", *overrides])
    assert says in str(refused.value)


ROUTE = 'build.routes.int8="-conv_lowering=off"'


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (['precisions=["fp32", "fp16"]'], "build.routes.int8: precisions has no 'int8'"),
        (['targets=["gpu", "rtx"]'], "target 'rtx' has not"),
        (['targets=["ort-cuda"]'], "target 'ort-cuda' has not"),
        (['targets=["cpu"]'], "build.routes: only TensorRT 11.1 and later has them, and target 'cpu' has not"),
        (['build.routes.int4="-a=b"'], "int4"),
        (["build.routes.int8=3"], "build.routes.int8"),
        (['build.routes.int8="conv_lowering=off"'], "build.routes.int8: 'conv_lowering=off' is not -knob=value"),
        (['build.routes.fp16="-a=1 -b=2 -a=3"'], "build.routes.fp16: -a stands there more than once"),
        (['build.routes.int8="-a=\\u001b"'], "is not -knob=value"),
    ],
)
def test_what_contradicts_a_build_route_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("lenet5-digits", ['targets=["gpu"]', ROUTE, *overrides])
    assert says in str(refused.value)


def test_a_build_route_is_of_one_precision_and_of_tensorrt() -> None:
    recipe = load_recipe("lenet5-digits", ['targets=["cpu", "gpu"]', "build.weakly_typed=true", ROUTE])
    gpu = {v.name: route_of(recipe, v, find_target("gpu")) for v in variants_of(recipe, on_cpu=False)}
    assert gpu == {"fp32": "", "fp16": "", "int8": "-conv_lowering=off", IMPLICIT: ""}
    assert {route_of(recipe, v, find_target("cpu")) for v in variants_of(recipe, on_cpu=True)} == {""}


def test_a_cpu_has_no_such_row() -> None:
    recipe = load_recipe("lenet5-digits", ['targets=["cpu", "gpu"]', "build.weakly_typed=true"])
    assert IMPLICIT not in [v.name for v in variants_of(recipe, on_cpu=True)]
    assert [v.graph for v in variants_of(recipe, on_cpu=False) if v.name == IMPLICIT] == ["model.fp32.onnx"]
