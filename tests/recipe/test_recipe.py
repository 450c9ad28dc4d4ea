"""Recipes: strict, all problems at once, defaults in one place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.errors import MeasurementError, RecipeError
from edgecnn.recipe.load import find_recipe, list_recipes, load_recipe
from edgecnn.recipe.schema import RENAMED, Recipe, settings_rows
from edgecnn.steps.gate import require_settings

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


def test_a_threshold_is_one_number_or_one_for_each_class(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, "decision.threshold=1").decision.threshold == 1
    by_class = load(tmp_path, GOOD + "[decision]\nreject = true\nthreshold = {a = 0.5, b = 1}\n")
    assert by_class.decision.threshold == {"a": 0.5, "b": 1}
    assert by_class.values("decision") == {"decision.threshold": {"a": 0.5, "b": 1}, "decision.reject": True}
    assert load(tmp_path, GOOD, "decision.threshold.dog=0.5").decision.threshold == {"dog": 0.5}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1.5", "decision.threshold = 1.5: must be at most 1"),
        ("-0.1", "decision.threshold = -0.1: must be at least 0"),
        ("'high'", "decision.threshold = 'high': must be a number"),
        ("true", "decision.threshold = True: must be a number"),
        ("[0.5]", "decision.threshold = [0.5]: must be a number"),
        ("nan", "decision.threshold = nan: must be a finite number"),
        ("{a = 0.5, b = 2}", "decision.threshold.b = 2: must be at most 1"),
        ("{a = 'x'}", "decision.threshold.a = 'x': must be a number"),
    ],
)
def test_a_threshold_outside_zero_and_one_is_one_mistake(tmp_path: Path, value: str, said: str) -> None:
    assert message(tmp_path, GOOD + f"[decision]\nthreshold = {value}\n").partition("mine.toml: ")[2] == said


@pytest.mark.parametrize("name", ["decision_flips_pct_max", "class_recall_pct_min"])
def test_what_is_judged_at_a_threshold_needs_one(tmp_path: Path, name: str) -> None:
    said = message(tmp_path, GOOD + f"[tolerances]\n{name} = 1\n")
    assert f"tolerances.{name} needs a decision.threshold" in said
    assert load(tmp_path, GOOD + f"[decision]\nthreshold = 0.5\n[tolerances]\n{name} = 1\n")


@pytest.mark.parametrize("value", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000])
def test_what_the_parser_cannot_hold_is_a_mistake(tmp_path: Path, value: str) -> None:
    message(tmp_path, f"{GOOD}seed = {value}\n")


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    text = message(tmp_path, '[model]\nnam = "x"\n[train]\nepochs = -1\nbatch = "many"\n[modle]\n')
    for problem in ("model.nam", "'name'", "train.epochs = -1", "at least 0", "train.batch = 'many'", "whole number"):
        assert problem in text
    assert "modle is not known" in text
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nmomentun = 1\n", "train.momentun is not known; did you mean 'momentum'"),
        ("[train.augment]\nerased = 1\n", "train.augment.erased is not known; did you mean 'erase'"),
        ("[batch]\nwidth = 1\n", "batch.width is not known; allowed: min, opt, max"),
        ('path = "x"\n', "path is not known"),
        ("train = 3\n", "train = 3: must be a section"),
        ('train = "3"\n[batch]\nmax = 0\n', "batch.max = 0: must be at least 1"),
        ("[transfer]\ntrain = 2020-01-01\n", "transfer.train = {'date': '2020-01-01'}: must be a string"),
        (f"[train]\nseed = 0x{'f' * 5000}\n", "cannot be read"),
        (f"{'a.' * 5000}b = 1\n", "nested too deep"),
        ('targets = ["cpu", 3]\n', "targets.1 = 3: must be a string"),
        ("[quantize]\nmethod = 'entropie'\n", "did you mean 'entropy'"),
        ("[quantize]\nexclude = []\n", "quantize.exclude = []: must be a list with at least one entry"),
        ("[quantize]\nexclude = ['gemv', 3]\n", "quantize.exclude.1 = 3: must be a string"),
        ("[train]\nlearning_rate = -inf\n", "must be a finite number"),
        ("[train]\nmomentum = 1.5\n", "train.momentum = 1.5: must be at most 1"),
    ],
)
def test_a_mistake_names_its_key_and_what_is_allowed(tmp_path: Path, text: str, words: str) -> None:
    assert words in message(tmp_path, text + GOOD if not text.startswith("[") else GOOD + text)


def test_keys_of_earlier_versions_are_read(tmp_path: Path) -> None:
    old = '[train]\noptimiser = "adamw"\nschedule = "constant"\n[train.augment]\ncolour = 0.2\npca_colour = 0.1\n'
    new = '[train]\noptimizer = "adamw"\nlr_schedule = "constant"\n[train.augment]\ncolor = 0.2\npca_color = 0.1\n'
    assert load(tmp_path, GOOD + old) == load(tmp_path, GOOD + new)
    assert load(tmp_path, GOOD, "train.optimiser=adamw").train.optimizer == "adamw"
    assert load(tmp_path, GOOD + old, "train.optimizer=sgd").train.optimizer == "sgd"
    assert load(tmp_path, GOOD + new, "train.optimiser=sgd").train.optimizer == "sgd"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_key_under_both_its_names_is_refused(tmp_path: Path, old: str, new: str) -> None:
    section = old.rpartition(".")[0]
    keys = "".join(f"{name.rpartition('.')[2]} = 1\n" for name in (old, new))
    text = message(tmp_path, f"{GOOD}[{section}]\n{keys}")
    assert f"{old} and {new} are one setting" in text
    assert set(new.split(".")) <= {part for key in dict(settings_rows(Recipe())) for part in key.split(".")}


def test_a_run_of_an_earlier_version_has_its_settings_under_their_earlier_names(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    made = Sidecar(kind="accuracy", fields={"train.optimiser": "sgd", "train.schedule": "cosine"})
    result = SimpleNamespace(path=tmp_path / "fp32.accuracy.json", provenance=made)
    require_settings(recipe, SimpleNamespace(results=[result]))  # type: ignore[arg-type]
    made.fields["train.optimiser"] = "adamw"
    with pytest.raises(MeasurementError, match="train.optimiser = 'adamw', .* has 'sgd'"):
        require_settings(recipe, SimpleNamespace(results=[result]))  # type: ignore[arg-type]


def test_the_values_of_a_section(tmp_path: Path) -> None:
    values = load(tmp_path, GOOD).values("batch", "data.source")
    sizes = {"batch.min": 1, "batch.opt": 1, "batch.max": 8, "batch.profiles": None}
    assert values == {**sizes, "data.source": "digits"}


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
