"""edgecnn train and edgecnn probe, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgecnn.cli import main
from edgecnn.recipe.load import list_recipes, load_recipe
from edgecnn.recipe.schema import settings_rows
from edgecnn.zoo import find_model

if TYPE_CHECKING:  # imported before the first test of this file
    from edgecnn.pytorch.training import loop as training

pytestmark = pytest.mark.torch

FAST = ["--set", "train.epochs=1", "--threads", "1"]


def test_train_writes_a_checkpoint_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lenet5-digits", *FAST, "--out", str(tmp_path / "run"), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["name"] == "lenet5-digits"
    assert result["n"] == 540
    assert Path(result["checkpoint"]).is_file()
    assert "epoch 1/1: loss" in err
    assert main(["train", "lenet5-digits", *FAST, "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert "resuming after epoch 1 of 1" in capsys.readouterr().err


def test_mistakes_are_one_error_and_one_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in [
        (["lenet5-digits", "--resume"], "there is no run to resume"),
        (["lenet5-digits", "--data", "mnist:nowhere"], "no such file"),
        (["lenet5-digits", "--set", "train.epochs=0"], "there is nothing to train"),
        (["lenet5-digits", "--set", "train.amp=fp16", "--set", "train.device=cpu"], "needs a GPU"),
        (["lenet5-digits", "--set", "train.batch=5000"], "make no batch of 5000"),
        (["lenet5-digits", "--set", "train.lr_schedule=step"], "needs train.milestones"),
        (["lenet5-digits", "--set", "train.learning_rates=1"], "did you mean 'learning_rate'"),
        (["lenet5-digits", "--set", "train.augment.area=[0.5,0.1]"], "the smaller first"),
        (["lenet5-digits", "--set", "model.classes=3"], "has 10 classes"),
    ]:
        assert main(["train", *arguments, "--out", str(tmp_path / "out")]) == 2, arguments
        lines = capsys.readouterr().err.splitlines()
        assert lines[-2].startswith("error: "), lines
        assert said in lines[-2]
        assert lines[-1].startswith("hint: ")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Trainer, "train_epoch", interrupt)
    assert main(["train", "lenet5-digits", "--out", str(tmp_path)]) == 130
    assert "--resume" in capsys.readouterr().err


def test_probe_prints_a_row_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "lenet5", "--data", "digits", "--weights", "none", "--images", "100", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in rows] == ["conv1", "conv2", "fc1", "fc2", "all together"]
    assert max(r["top1_pct"] for r in rows) > 60


def test_every_recipe_loads_and_its_network_is_in_the_zoo() -> None:
    names = list_recipes()
    assert {
        "lenet5-digits", "lenet5-mnist", "alexnet-imagenet",
        "vgg16-imagenet", "googlenet-imagenet", "resnet50-imagenet",
        "mobilenet_v2-imagenet", "resnet20-cifar10", "nin-cifar10", "squeezenet1_1-hymenoptera",
    } <= names.keys()  # fmt: skip
    for name in names:
        recipe = load_recipe(name)
        assert recipe.title
        find_model(recipe.model.name)


def test_the_plain_and_the_residual_recipe_differ_in_the_network_alone() -> None:
    plain, residual = (dict(settings_rows(load_recipe(f"{name}20-cifar10"))) for name in ("plain", "resnet"))
    assert {key for key in plain if plain[key] != residual[key]} == {"title", "model.name"}
