"""A recipe's text says what the recipe says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecnn.recipe.load import list_recipes, load_recipe
from edgecnn.recipe.schema import AugmentSettings, Recipe, Tolerances, settings_rows
from edgecnn.recipe.text import recipe_text


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_reading_it_gives_the_same_settings(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(recipe_text(recipe), encoding="utf-8")
    assert replace(load_recipe(str(path)), path=recipe.path) == recipe


def test_odd_values_survive(tmp_path: Path) -> None:
    recipe = load_recipe("lenet5-digits")
    odd = replace(
        recipe,
        title='a "quoted" \\ line\nand \x7f, \u0001, é, 😀, # none',
        data=replace(recipe.data, source="/data/ä b/[x]"),
        train=replace(recipe.train, weight_decay=1e-07, augment=AugmentSettings(area=(0.08, 1.0))),
        tolerances=Tolerances(latency_ms_p99_max=1e300),
    )
    (tmp_path / "lenet5-digits.toml").write_text(recipe_text(odd), encoding="utf-8")
    found: Recipe = load_recipe(str(tmp_path / "lenet5-digits.toml"))
    assert settings_rows(found) == settings_rows(odd)
