"""Plain networks beside residual ones: the pair of recipes, the report of gradient norms, the two further axes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx


def norms(folder: Path, **fields: object) -> Path:
    content = {"recipe": "r", "model": "m", "layers": ["a", "b"], "epochs": [1, 2], "norms": [[0.5, 0.0], [0.25, 2.0]]}
    folder.mkdir(parents=True)
    (folder / "gradient-norms.json").write_text(json.dumps(content | fields))
    return folder


def test_the_recipes_differ_in_the_network_alone(edgecnn: Callable[..., Result]) -> None:
    plain, residual = (edgecnn("recipe", "show", f"{kind}20-cifar10").out.splitlines() for kind in ("plain", "resnet"))
    differ = [line.split() for line in plain if line not in residual]
    assert [line[:2] for line in differ if "." in line[0].strip(".")] == [["model.name", "plain20_cifar"]], differ
    cards = {m["name"]: m for m in json.loads(edgecnn("models", "--json").out)}
    both = [cards[name] for name in ("plain20_cifar", "resnet20_cifar")]
    for key in ("params", "macs", "weight_layers"):
        assert both[0][key] == both[1][key], key


def test_further_axes_show_what_models_lists(edgecnn: Callable[..., Result], tmp_path: Path) -> None:
    cards = {m["name"]: m for m in json.loads(edgecnn("models", "--json").out)}
    drawn = {name for name, m in cards.items() if m["classes"] == 1000 and m["top1_pct"] is not None}
    for against, said in (("memory", r"([\d.]+) MiB"), ("year", r"(\d+) weight layers")):
        path = tmp_path / f"{against}.svg"
        found = json.loads(edgecnn("models", "--plot", path, "--against", against, "--json").out)
        assert found["path"] == str(path)
        assert set(found["left_out"]) == cards.keys() - drawn
        tips = {m[1]: m[2] for m in re.finditer(rf"<title>(\w+): [^<]*?{said}", path.read_text())}
        assert tips.keys() == drawn
        for name, value in tips.items():
            card = cards[name]
            memory = (4 * card["params"] + card["peak_activation_bytes"]) / 2**20
            assert float(value) == pytest.approx(memory if against == "memory" else card["weight_layers"], abs=0.06)


def test_norms_are_shown_by_name_of_a_recipe_or_a_folder(
    edgecnn: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    norms(tmp_path / "runs" / "plain20-cifar10")
    norms(tmp_path / "other", recipe="<b>", layers=["</svg>", "b"])
    for run in ("plain20-cifar10", "recipes/plain20-cifar10.toml", "runs/plain20-cifar10"):
        said = edgecnn("report", run, "--format", "gradients")
        assert said.code == 0, said.said
        assert "epoch 2: smallest 0.25 (a), largest 2 (b)" in said.out
    beside = ("--beside", "other", "--beside", "plain20-cifar10")
    assert edgecnn("report", "runs/plain20-cifar10", *beside, "--format", "gradients", "-o", "g.svg").code == 0
    drawn = Path("g.svg").read_text()
    assert drawn.count("</svg>") == 1
    assert drawn.count("gradient norm by layer") == 3


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"norms": [[math.inf, 1.0], [1.0, math.nan]]}, "norms.0.0"),
        ({"norms": [[-1.0, 1.0], [1.0, 1.0]]}, "are no norms"),
        ({"norms": [[1.0, 1.0]]}, "do not belong together"),
        ({"layers": [], "norms": [[], []]}, "do not belong together"),
        ({"norms": "x"}, "norms"),
    ],
)
def test_a_damaged_file_is_refused(
    edgecnn: Callable[..., Result], tmp_path: Path, fields: dict[str, object], named: str
) -> None:
    edgecnn("report", norms(tmp_path / "run", **fields), "--format", "gradients").refused(named, "edgecnn train")


def test_runs_without_norms_and_no_runs_are_told_apart(edgecnn: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    edgecnn("report", tmp_path / "run", "--format", "gradients").refused("gradient-norms.json", "train.gradient_norms")
    edgecnn("report", tmp_path / "nope", "--format", "gradients").refused("no such run")
    whole = norms(tmp_path / "whole")
    edgecnn("report", whole, "--format", "gradients", "--beside", tmp_path / "nope").refused("nope: no such run")
    edgecnn("report", whole, "--format", "gradients", "-o", tmp_path / "g.md").refused(".svg")
