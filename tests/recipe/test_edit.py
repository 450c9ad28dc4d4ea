"""A copy of a recipe with other settings; and where its images lie here."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.errors import RecipeError
from edgecnn.recipe.edit import edited_recipe
from edgecnn.recipe.load import list_recipes, load_recipe

TEXT = """title = "a # b" # what it is for
targets = ["cpu"]

[model]
name = "lenet5" # LeNet

[data]
source = "mnist:mnist"

# how it is trained
[train]
epochs = 3

[train.augment]
mirror = true
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "mine.toml").write_text(TEXT)
    return str(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("title=c", 'title = "c" # what it is for'),
        ("train.epochs=5", "epochs = 5"),
        ("model.name=alexnet", 'name = "alexnet" # LeNet'),
        ("train.seed=2", "seed = 2"),
        ("train.augment.pad=2", "pad = 2"),
        ('precisions=["fp32", "int8"]', 'precisions = ["fp32", "int8"]'),
        ('data.calibration="a\\"b#c"', 'calibration = "a\\"b#c"'),
        ("tolerances.top1_drop_pp_max=0.5", "top1_drop_pp_max = 0.5"),
        ("transfer.cache=false", "cache = false"),
    ],
)
def test_one_line_changes_and_the_others_stay(recipe: str, setting: str, line: str, tmp_path: Path) -> None:
    text = edited_recipe(recipe, [setting])
    assert line in text.splitlines()
    kept = set(TEXT.splitlines()) - set(text.splitlines())
    assert len(kept) <= 1
    (tmp_path / "copy").mkdir()
    copied = tmp_path / "copy/mine.toml"
    copied.write_text(text)
    wanted = load_recipe(recipe, [setting])
    assert [getattr(load_recipe(str(copied)), key) for key in ("model", "data", "train", "tolerances")] == [
        getattr(wanted, key) for key in ("model", "data", "train", "tolerances")
    ]


def test_every_recipe_that_ships_can_be_copied_with_other_settings() -> None:
    for path in list_recipes().values():
        text = edited_recipe(str(path), ['targets=["cpu"]', "tolerances.size_mb_max=9", "batch.max=128"])
        assert "size_mb_max = 9" in text


@pytest.mark.parametrize("layout", ["train = {epochs = 3}\n", "train.epochs = 3\n", "[train]\nepochs = [\n1]\n"])
def test_what_is_not_a_single_line_is_refused_and_never_guessed(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "odd.toml"
    head = "" if layout.startswith("[") else layout
    path.write_text(f'{head}[model]\nname = "lenet5"\n[data]\nsource = "digits"\n{"" if head else layout}')
    with pytest.raises(RecipeError) as caught:
        edited_recipe(str(path), ["train.epochs=5"])
    assert caught.value.hint
    with pytest.raises(RecipeError, match="not a change of single lines"):
        edited_recipe("lenet5-digits", ["tolerances={size_mb_max=1}"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("trian.epochs=5", "--set trian.epochs=5: .*trian is not known; did you mean 'train'"),
        ("train.epochs=many", "train.epochs = 'many': must be a whole number"),
        ('targets=["agx-orion"]', "there is no device 'agx-orion'; did you mean 'agx-orin'"),
        ("targets=agx-orin", "must be a list"),
        ("train.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("train..epochs=3", "expected key=value"),
        ("data.test=mine", "a path to a test set"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_what_is_allowed(recipe: str, setting: str, words: str) -> None:
    for read in (load_recipe, edited_recipe):
        with pytest.raises(RecipeError, match=words):
            read(recipe, [setting])


def test_a_mistake_of_the_file_is_not_told_as_one_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(TEXT.replace("epochs = 3", "epoch = 3"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "bad.toml"), ["train.seed=1"])
    assert "--set" not in caught.value.message


def test_a_folder_alone_holds_the_recipes_kind_of_data_set(recipe: str, tmp_path: Path) -> None:
    def source(data: str) -> str:
        return load_recipe(recipe, data=data).data.source

    assert source(str(tmp_path)) == f"mnist:{tmp_path}"
    assert source(f"cifar10:{tmp_path}") == f"cifar10:{tmp_path}"
    assert source("digits") == "digits"
    assert source(str(tmp_path / "absent")) == str(tmp_path / "absent")
    found = load_recipe(recipe, ["train.seed=1"], data="digits", calibration_data=str(tmp_path))
    assert (found.data.source, found.data.calibration_source) == ("digits", f"mnist:{tmp_path}")
    assert found.overrides[0] == "train.seed=1"
    assert load_recipe(recipe, found.overrides) == found, "what is said to go on with is the same recipe"


def test_two_places_for_the_same_images_are_refused(recipe: str) -> None:
    with pytest.raises(RecipeError, match=r"--data digits and --set data.source=x"):
        load_recipe(recipe, ["data.source=x"], data="digits")


DEPLOYED = ("mobilenet_v2-orin", "resnet50-orin", "resnet50-rtx", "efficientnet_b0-rtx", "resnet20-cifar10-orin")


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_recipe_for_a_device_trains_nothing_and_judges_all_that_it_is_for(name: str) -> None:
    recipe = load_recipe(name)
    limits = recipe.tolerances
    assert recipe.train.epochs == 0
    assert "cpu" not in recipe.targets
    assert None not in (limits.top1_drop_pp_max, limits.latency_ratio_max, limits.latency_ms_p99_max)
    assert limits.int8_share_pct_min
    assert recipe.data.calibration
