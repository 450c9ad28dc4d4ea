"""Recipes: strict, all problems at once, defaults in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.errors import RecipeError
from edgecnn.recipe.load import find_recipe, list_recipes, load_recipe
from edgecnn.recipe.schema import Recipe, settings_rows

GOOD = 'title = "t"\n[model]\nname = "lenet5"\n[data]\nsource = "digits"\n'


def load(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_recipe(str(path), overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text, *overrides)
    assert caught.value.hint
    return caught.value.message


def test_what_is_left_out_comes_from_the_dataclasses(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert recipe.name == "mine"
    assert recipe.batch == Recipe().batch
    assert recipe.tolerances.top1_drop_pp_max is None


@pytest.mark.parametrize("value", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000])
def test_what_the_parser_cannot_hold_is_a_mistake(tmp_path: Path, value: str) -> None:
    message(tmp_path, f"{GOOD}seed = {value}\n")


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    text = message(tmp_path, '[model]\nnam = "x"\n[train]\nepochs = -1\nbatch = "many"\n[modle]\n')
    for problem in ("model.nam", "'name'", "train.epochs = -1", "at least 0", "train.batch = 'many'", "whole number"):
        assert problem in text
    assert "unknown key modle" in text
    assert "'model'" in text
    assert "data.source is missing" in text


def test_a_duplicate_key_names_the_line(tmp_path: Path) -> None:
    assert "line 4" in message(tmp_path, 'title = "t"\n[model]\nname = "a"\nname = "b"\n')


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epochs=1.5", "whole number"),
        ("train.epochs=true", "whole number"),
        ("train.optimizer=sgdd", "'sgd'"),
        ("precisions=[]", "at least one"),
        ('precisions=["fp32","int4"]', "must be one of"),
        ("batch.min=9", "does not hold"),
        ("bench.batch=100", "not within batch.min 1 .. max 8"),
        ("batch={min=4,opt=4}", "bench.batch = 1 is not within batch.min 4 .. max 8"),
        ("tolerances.latency_ratio_max=inf", "must be a finite number"),
        ("train.learning_rate=nan", "must be a finite number"),
        ("train={nesterov=true,momentum=0}", "train.nesterov needs train.momentum > 0"),
        ("train.augment.area=[8,100]", "two shares of the picture, the smaller first, at most 1"),
        ('train={lr_schedule="one-cycle",warmup_epochs=1}', "one-cycle schedule warms up by itself"),
        ("train.augment.jitter=[256,1000000]", "two pixels, the smaller first, at most 4096"),
        ('targets=["cpu","gpu","cpu"]', "'cpu' stands there more than once"),
        ('precisions=["int8","int8"]', "'int8' stands there more than once"),
        ("tolerances.top1_drop_pp_max=nan", "number"),
        ("tolerances.top1_drop_pp_max=-1", "at least 0"),
    ],
)
def test_a_setting_from_the_command_line_is_judged_alike(tmp_path: Path, setting: str, words: str) -> None:
    assert words in message(tmp_path, GOOD, setting)


def test_settings_from_the_command_line(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, "train.epochs=3", "tolerances.top1_drop_pp_max=1", 'targets=["cpu"]', "title=plain")
    assert (recipe.train.epochs, recipe.tolerances.top1_drop_pp_max, recipe.title) == (3, 1.0, "plain")


def test_the_values_of_a_section(tmp_path: Path) -> None:
    values = load(tmp_path, GOOD).values("batch", "data.source")
    assert values == {"batch.min": 1, "batch.opt": 1, "batch.max": 8, "data.source": "digits"}


def test_an_unknown_recipe_names_the_nearest_and_does_not_take_it() -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe("lenet5-digit")
    assert "'lenet5-digits'" in caught.value.hint


def test_every_recipe_that_ships_is_valid(root: Path) -> None:
    found = {path.stem for path in (root / "recipes").glob("*.toml")}
    assert found
    assert found <= list_recipes().keys()
    for name in found:
        recipe = load_recipe(str(root / "recipes" / f"{name}.toml"))
        assert recipe.title
        assert len(settings_rows(recipe)) > 20
