"""Recipes of networks that are not of the zoo: what contradicts itself, and a factory looked at without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.errors import ArtifactError, EdgecnnError, ModelError, RecipeError
from edgecnn.recipe.factory import check_factory, names_factory, require_trust, split_factory
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe

DATA = '[data]\nsource = "digits"\n'
OWN = f'{DATA}[model]\npython = "net.py:make"\n'


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_recipe(str(path))


def test_an_own_network_needs_no_name(tmp_path: Path) -> None:
    recipe = load(tmp_path, f"{OWN}[input]\nsize = [180, 320]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n")
    assert (recipe.model.own, recipe.model.is_graph, recipe.input.size) == ("net.py:make", False, (180, 320))
    assert load(tmp_path, f'{DATA}[model]\nonnx = "theirs.onnx"\n').model.is_graph
    assert not load(tmp_path, f'{OWN}onnx = "theirs.onnx"\n').model.is_graph
    assert load(tmp_path, f"{OWN}[input]\nsize = 224\n").input.size == 224


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{OWN}name = 'lenet5'\n", "model.name and model.python are two networks"),
        (f"{OWN}timm = 'regnety_002'\n", "model.python and model.timm are two networks"),
        (f"{DATA}[model]\npython = 'net.py'\n", "model.python = 'net.py': must be FILE.py:FUNCTION"),
        (f"{DATA}[model]\npython = 'net:make'\n", "must be FILE.py:FUNCTION"),
        (f"{OWN}weights = 'default'\n", "nobody publishes weights of model.python"),
        (f"{DATA}[model]\nonnx = 'a.onnx'\nweights = 'w.pth'\n", "the graph model.onnx has its weights inside"),
        (f"{OWN}[train]\nepochs = 3\n", "train.epochs = 3: only networks of the zoo are trained here"),
        (f"{DATA}[model]\nname = 'lenet5'\nlabels = 'l.txt'\n", "model.labels is a setting of model.python"),
        (f"{DATA}[model]\nname = 'lenet5'\n[input]\nlayout = 'nhwc'\n", "input.layout is a setting of model.python"),
        (f"{OWN}[input]\ncrop = 'none'\nresize = 256\n", "the picture is resized to input.size"),
        (f"{OWN}[input]\nchannels = 'gray'\nmean = [0.5, 0.5, 0.5]\n", "input.channels = 'gray' needs 1 of them"),
        (f"{OWN}[input]\nsize = [1, 2, 3]\n", "input.size"),
        (f"{OWN}[input]\nsize = 0\n", "input.size"),
        (f"{OWN}[input]\nchannels = 'rbg'\n", "input.channels"),
        (f"{DATA}", "model.name is missing: which network is it?"),
    ],
)
def test_contradictions(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    assert words in caught.value.message


def test_a_factory_is_a_file_and_a_function() -> None:
    assert split_factory("nets/net.py:make") == (Path("nets/net.py"), "make")
    assert names_factory("net.py:make")
    assert names_factory("net.py")
    assert not names_factory("resnet18")
    with pytest.raises(ModelError, match="'net.py' names no function"):
        split_factory("net.py")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def other(): ...", "has no function 'make'"),
        ("def make(:", "not valid Python"),
        ("x = '\0'", "not valid Python"),
        ("(" * 300, "not valid Python"),
        ("x = " + "-" * 100_000 + "1", "not valid Python"),
    ],
)
def test_what_can_be_told_of_a_file_without_running_it(code: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(code)
    with pytest.raises(EdgecnnError, match=words):
        check_factory(f"{path}:make")


@pytest.mark.parametrize(
    "code",
    [
        "def make(): ...",
        "class make: ...",
        "make = len",
        "from x import make",
        "from x import a as make",
        "from x import *",
        "if True:\n    def make(): ...",
    ],
)
def test_where_the_function_may_come_from(code: str, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(f"raise SystemExit('never run')\n{code}\n")
    check_factory(f"{path}:make")


def test_the_nearest_function_is_named_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("def make_net(): ...")
    with pytest.raises(ModelError) as caught:
        check_factory(f"{path}:make_ne")
    assert "make_net" in caught.value.hint
    with pytest.raises(ArtifactError, match="No such file"):
        check_factory(f"{tmp_path}/none.py:make")


def test_code_is_not_run_unasked() -> None:
    require_trust("net.py:make", True)
    with pytest.raises(ArtifactError, match="it is not run unasked") as caught:
        require_trust("net.py:make", False)
    assert "--trust-code" in caught.value.hint
