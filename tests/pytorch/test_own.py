"""A network from a function in a user's file, from timm, or handed over as a module."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import ArtifactError, MissingPackageError, ModelError
from edgecnn.recipe.schema import ModelSettings

if TYPE_CHECKING:  # imported before the first test of this file
    import timm
    import torch
    from torch import nn

    from edgecnn.pytorch import own, run_factory

pytestmark = pytest.mark.torch

GRAY = Preprocessing(resize=8, crop=8, mean=(0.5,), std=(0.5,), channels=1)
NET = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(code: str = NET, function: str = "make", preprocessing: Preprocessing = GRAY, **settings: Any) -> Any:
    Path("net.py").write_text(code)
    model = ModelSettings(python=f"net.py:{function}", **settings)
    return own.load_own(model, lambda _: preprocessing, trust_code=True)


def test_the_module_its_classes_and_its_code(folder: Path) -> None:
    made = load()
    assert (made.card.name, made.card.classes, made.files) == ("net.py:make", 3, (Path("net.py"),))
    assert not made.module.training
    assert made.weights.weights_notes == ("weights as net.py:make makes them",)


def test_a_function_that_draws_weights_makes_the_same_at_each_call(folder: Path) -> None:
    state, again = load().module.state_dict(), load().module.state_dict()
    assert all(torch.equal(state[k], again[k]) for k in state)


def test_nothing_runs_without_trust(folder: Path) -> None:
    Path("net.py").write_text("import pathlib\npathlib.Path('ran').touch()\ndef make(): ...\n")
    with pytest.raises(ArtifactError, match="it is not run unasked"):
        run_factory.build_from_code("net.py:make", trust_code=False)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def make(): raise ValueError('no such\\nlayer')", r"net.py:make raised ValueError: no such \(line 1\)"),
        ("1 / 0\ndef make(): ...", r"net.py raised ZeroDivisionError: division by zero \(line 1\)"),
        ("raise SystemExit(3)\ndef make(): ...", r"net.py raised SystemExit: 3"),
        ("import nothing_of_this_name\ndef make(): ...", "raised ModuleNotFoundError: No module named 'nothing_of"),
        ("def make(): return None", "returns None, not a torch.nn.Module"),
        ("def make(): return {'net': 1}", "returns a dict, not a torch.nn.Module"),
        ("def make(classes, width=1): ...", r"needs arguments \(classes\)"),
        ("def make(*, classes): ...", r"needs arguments \(classes\)"),
        ("from torch import nn\nmake = nn.Flatten()", "is a Flatten, not a function"),
        ("make = 3", "is a int, not a function"),
        ("def make(): return make()", "raised RecursionError"),
    ],
)
def test_a_function_that_gives_no_network(code: str, words: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load(code)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def network(expression: str) -> str:
    return (
        f"import torch\nfrom torch import nn\nclass make(nn.Module):\n    def forward(self, x):\n        {expression}\n"
    )


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("return x", r"gives \[2, 1, 8, 8\] in eval mode, not logits \[N, classes\]"),
        ("return x.flatten(1), x", "gives tuple in eval mode"),
        ("return {'logits': x.flatten(1)}", "gives dict in eval mode"),
        ("return x.mean()", r"gives \[\] in eval mode"),
        ("return x.flatten(1) @ torch.zeros(3, 3)", "cannot take 1x8x8 images"),
        ("raise KeyError('masks')", "cannot take 1x8x8 images: 'masks'"),
        ("return x.flatten(1) / 0", "its own logits are not finite"),
        ("return x.flatten(1).softmax(1)", "gives probabilities, whose rows add up to 1"),
        ("return x.mean((2, 3)).sigmoid()", "stays within 0..1, as behind a sigmoid"),
    ],
)
def test_a_module_that_is_no_classifier(expression: str, words: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=words):
        load(network(expression))


def test_what_is_random_or_counts_outside_the_state_is_refused(folder: Path) -> None:
    code = "import random\nfrom torch import nn\nclass make(nn.Module):\n"
    code += "    def __init__(self):\n        super().__init__()\n        self.scale = random.random()\n"
    with pytest.raises(ModelError, match="makes another network at each call, with the same weights"):
        load(f"{code}    def forward(self, x):\n        return x.flatten(1) * self.scale\n")


def test_weights_from_a_file_fit_or_are_refused(folder: Path) -> None:
    state = {k: v + 1 for k, v in load().module.state_dict().items()}
    torch.save(state, "w.pth")
    assert torch.equal(load(weights="w.pth").module.state_dict()["0.bias"], state["0.bias"])
    torch.save({**state, "4.weight": torch.zeros(7, 4), "4.bias": torch.zeros(7)}, "w.pth")
    with pytest.raises(ModelError, match="7 classes, not 3"):
        load(weights="w.pth")
    torch.save({"other": state["0.bias"]}, "w.pth")
    with pytest.raises(ModelError, match="w.pth"):
        load(weights="w.pth")
    with pytest.raises(ArtifactError, match="none.pth: no such file"):
        load(weights="none.pth")
    with pytest.raises(ModelError, match="gives 3 classes, model.classes is 4"):
        load(classes=4)


def test_other_images_than_the_network_takes(folder: Path) -> None:
    rgb = Preprocessing(resize=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ModelError, match="cannot take 3x8x8 images") as caught:
        load(preprocessing=rgb)
    assert "[input]" in caught.value.hint


def test_what_the_file_imports_from_its_folder_is_part_of_the_code(folder: Path) -> None:
    Path("layers.py").write_text("from torch import nn\nwidth = 4\n")
    code = NET.replace("import torch\n", "import torch\nfrom layers import width\n").replace("Linear(4", "Linear(width")
    made = load(code)
    assert [f.name for f in made.files] == ["net.py", "layers.py"]
    other = folder / "other"
    other.mkdir()
    (other / "layers.py").write_text("width = 5\n")
    (other / "net.py").write_text("from layers import width\nraise ValueError(width)\ndef make(): ...\n")
    with pytest.raises(ModelError, match="ValueError: 5"):  # not the one that was imported before
        run_factory.build_from_code("other/net.py:make", trust_code=True)
    assert str(folder) not in sys.path
    assert not list(folder.rglob("*.pyc"))


def test_a_file_changed_within_the_second_is_run_as_it_is(folder: Path) -> None:
    assert load(NET).card.classes == 3
    assert load(NET.replace("Linear(4, 3)", "Linear(4, 5)")).card.classes == 5


def test_layers_without_shapes_get_them(folder: Path) -> None:
    made = load(NET.replace("nn.Linear(4, 3)", "nn.LazyLinear(3)"))
    assert made.module.state_dict()["4.weight"].shape == (3, 4)


def test_a_module_that_takes_channels_last(folder: Path) -> None:
    Path("net.py").write_text(network("return x[:, 0, 0, :].repeat(1, 3)"))
    model = ModelSettings(python="net.py:make")
    made = own.load_own(model, lambda _: GRAY, layout="nhwc", trust_code=True)
    assert made.card.classes == 3
    assert made.network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_module_that_is_handed_over_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 3)).train()
    made = own.own_module(module, GRAY)
    assert module.training
    assert made.module is not module
    assert (made.card.name, made.card.classes, made.files) == ("Sequential", 3, ())


def test_timm_brings_its_preprocessing() -> None:
    module, preprocessing = own.build_timm("resnet10t", 7)
    assert module.get_classifier().out_features == 7
    theirs = timm.data.create_transform(**timm.data.resolve_data_config({}, model=module))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8))
    np.testing.assert_allclose(preprocessing.tensor(picture), theirs(picture).numpy(), atol=1e-5)


def test_a_name_that_timm_does_not_have() -> None:
    with pytest.raises(ModelError, match=rf"timm {re.escape(timm.__version__)} has no network 'regnety_02'") as caught:
        own.build_timm("regnety_02")
    assert "regnety_002" in caught.value.hint
    with pytest.raises(ModelError, match="timm cannot make 'resnet10t.none'"):
        own.build_timm("resnet10t.none", pretrained=True)


def test_without_timm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else there(name))
    with pytest.raises(MissingPackageError, match="'timm'") as caught:
        own.build_timm("regnety_002")
    assert "edgecnn[own]" in caught.value.hint


def test_probes_are_of_two_images() -> None:
    card = own.own_card("n", GRAY)
    assert own.probe(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), card).shape == (2, 3)
    assert np.isfinite(own.probe(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), card)).all()
