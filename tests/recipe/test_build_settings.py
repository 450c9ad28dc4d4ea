"""[build]: what goes together, and which engines it adds."""

from __future__ import annotations

import pytest

from edgecnn.errors import RecipeError
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.variants import variants_of

IMPLICIT = "int8-implicit"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (['precisions=["fp32", "fp16"]'], "precisions has no 'int8'"),
        (['targets=["rtx"]'], "target 'rtx' is another's"),
        (["build.weakly_typed=1"], "build.weakly_typed"),
    ],
)
def test_what_contradicts_it_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("lenet5-digits", ['targets=["gpu"]', "build.weakly_typed=true", *overrides])
    assert says in str(refused.value)


def test_a_cpu_has_no_such_row() -> None:
    recipe = load_recipe("lenet5-digits", ['targets=["cpu", "gpu"]', "build.weakly_typed=true"])
    assert IMPLICIT not in [v.name for v in variants_of(recipe, on_cpu=True)]
    assert [v.graph for v in variants_of(recipe, on_cpu=False) if v.name == IMPLICIT] == ["model.fp32.onnx"]
