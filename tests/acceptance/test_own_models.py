"""Networks of a user's own, from a Python file or an ONNX graph, to a verdict; and those that cannot be used.

The networks read the colours of pictures with weights set by hand, so that the right class of each is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.channel_pictures import RED, Result, class_model

pytestmark = [pytest.mark.torch, pytest.mark.cpu_s(30)]  # whole flows, with PyTorch in two processes

Command = Callable[..., Result]
NAMES = ("ant", "bee", "cat")

NET = """
import os
import sys

import torch
from torch import nn


class Colors(nn.Module):
    '''The strongest channel of 12 x 20 pictures, blue first, channels last.'''

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1, bias=False)
        self.features.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = 10 * torch.eye(3).flip(0)

    def forward(self, images):
        print("said by the network")
        assert images.shape[1:] == (12, 20, 3)
        seen = nn.functional.gelu(self.features(images.permute(0, 3, 1, 2)))
        return self.head(nn.functional.silu(seen).mean((2, 3)))


class Exits(Colors):
    def forward(self, images):
        sys.exit(0)


class Mixes(Colors):
    def forward(self, images):
        return super().forward(images - images.mean(0, keepdim=True))


class OneRow(Colors):
    def forward(self, images):
        return super().forward(images).mean(0, keepdim=True)


class Half(Colors):
    def forward(self, images):
        return super().forward(images).half()


class Softmax(Colors):
    def forward(self, images):
        return super().forward(images).softmax(1)


class Dropout(Colors):
    def forward(self, images):
        return super().forward(nn.functional.dropout(images))


class Looks(Colors):
    def forward(self, images):
        return super().forward(images if images.max() < 1e6 else -images)


class Pair(Colors):
    def forward(self, images):
        return super().forward(images), images


def raises():
    raise ValueError("no\\nsecond line")


def leaves():
    sys.exit(0)


def nothing():
    return None


def needs(width, depth=3):
    return Colors()


def wrapped():
    return nn.DataParallel(Colors())


def compiled():
    return torch.compile(Colors())


def traced():
    return torch.jit.trace(Colors(), torch.zeros(1, 12, 20, 3))


made = Colors()
"""

RECIPE = """
precisions = ["int8"]
[model]
python = "net.py:Colors"
[input]
size = [12, 20]
mean = [0, 0, 0]
std = [1, 1, 1]
channels = "bgr"
layout = "nhwc"
[data]
source = "pictures"
[quantize]
method = "minmax"
[bench]
duration_s = 0.1
warmup_ms = 1
[tolerances]
top1_drop_pp_max = 20
"""


def put_pictures(root: Path, side: tuple[int, int] = (40, 24)) -> None:
    """Class k has the strongest channel k; every third picture carries an EXIF orientation."""
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 16)):
        for k, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 70, (side[1], side[0], 3)).astype(np.uint8)
                pixels[..., k] += 130
                picture = Image.fromarray(pixels)
                exif = picture.getexif()
                if i % 3 == 0:
                    exif[0x0112] = 6
                picture.save(root / split / name / f"{i}.jpg", exif=exif)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the network, its recipe and pictures."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("mine.toml").write_text(RECIPE)
    put_pictures(tmp_path / "pictures")
    return tmp_path


@pytest.mark.usefixtures("short_blocks")
def test_a_rectangle_of_bgr_in_nhwc_goes_to_a_pass(edgecnn: Command, here: Path) -> None:
    done = edgecnn("run", "mine.toml", "--trust-code", "--until", "validate", "--json")
    assert done.code == 0, done.said
    assert json.loads(done.out)["folder"] == "runs/mine", "what the network prints is not in the way"
    assert "said by the network" in done.err
    assert "18 of 48 pictures carry an EXIF orientation" in done.err
    accuracy = json.loads((here / "runs/mine/cpu/int8.accuracy.json").read_text())
    assert (accuracy["top1_pct"], accuracy["reference_top1_pct"], accuracy["n"]) == (100, 100, 48)
    judged = edgecnn("gate", "runs/mine")
    assert judged.code == 0, judged.said
    assert "mine on cpu: PASS" in judged.out
    checkpoint = here / "runs/mine/model.safetensors"
    for command in (
        ("validate", "runs/mine/cpu/int8.onnx", "--reference", checkpoint, "--data", "pictures"),
        ("reference", checkpoint, "--data", "pictures", "-o", "again.npz"),
        ("bench", "--engine", checkpoint, "--duration", "0.1", "--warmup", "0"),
    ):
        edgecnn(*command).refused("--trust-code")
        trusted = edgecnn(*command, "--trust-code", "--json")
        assert trusted.code == 0, trusted.said
        json.loads(trusted.out)


def test_with_a_serving_contract_a_threshold_a_bundle_and_exif(edgecnn: Command, here: Path) -> None:
    settings = [
        "export.input=uint8-nhwc",
        "export.output=probabilities",
        "decision.threshold=0.4",
        "decision.reject=true",
        "input.exif_orientation=true",
        "tolerances.decision_flips_pct_max=20",
    ]
    chosen = [part for setting in settings for part in ("--set", setting)]
    done = edgecnn("run", "mine.toml", "--trust-code", "--out", "served", "--until", "validate", *chosen)
    assert done.code == 0, done.said
    assert edgecnn("bundle", "served", "--for", "cpu", "-o", "served.tar").code == 0
    there = edgecnn("run", "served.tar", "--out", "there", "--until", "validate")
    assert there.code == 0, there.said
    found = [json.loads((here / run / "cpu/int8.accuracy.json").read_text()) for run in ("served", "there")]
    for accuracy in found:
        assert (accuracy["top1_pct"], accuracy["decision_flips_n"], accuracy["n"]) == (100, 0, 48)
    said = json.loads(edgecnn("predict", "served/cpu/int8.onnx", "pictures/val/cat/0.jpg", "--json").out)
    assert said[0]["top5"][0]["label"] == "cat"


def test_what_cannot_be_traced_is_told_in_two_lines(edgecnn: Command, here: Path) -> None:
    refused = edgecnn("run", "mine.toml", "--trust-code", "--set", "model.python=net.py:Looks")
    refused.refused("must not look at values")
    assert "def forward" not in refused.err


def test_nothing_of_the_file_is_run_unasked(edgecnn: Command, here: Path) -> None:
    Path("net.py").write_text("open('ran', 'w')\n" + NET)
    edgecnn("run", "mine.toml").refused("net.py", "--trust-code")
    edgecnn("export", "net.py:Colors", "--preprocess", "imagenet-224").refused("net.py", "--trust-code")
    assert edgecnn("run", "mine.toml", "--dry-run").code in (0, 2)
    assert not (here / "ran").exists()
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", "ValueError: no"),
        ("leaves", "SystemExit"),
        ("nothing", "returns None"),
        ("needs", "width"),
        ("absent", "absent"),
        ("made", "not a function"),
        ("Exits", "net.py:Exits"),
        ("Mixes", "an image alone"),
        ("OneRow", "[1, 3]"),
        ("Half", "float16"),
        ("Softmax", "probabilities"),
        ("Dropout", "at each call"),
        ("Pair", "tuple"),
        ("wrapped", "DataParallel"),
        ("compiled", "OptimizedModule"),
        pytest.param("traced", "ScriptModule", marks=pytest.mark.filterwarnings("ignore")),
        ("not a name", "FILE.py:FUNCTION"),
    ],
)
def test_a_function_that_gives_no_classifier_is_refused(
    edgecnn: Command, here: Path, function: str, words: str
) -> None:
    edgecnn("run", "mine.toml", "--trust-code", "--set", f"model.python=net.py:{function}").refused(words)
    assert not list(here.glob("runs/*/model.*")), "nothing is left half-written"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["input.size=12"], "3x12x12"),
        (["input.size=[20,12]"], "3x20x12"),
        (["input.layout=nchw"], "layout"),
        (["input.mean=[0]"], "input.mean"),
        (["input.std=[0,1,1]"], "deviation"),
        (["input.std=[nan,1,1]"], "input.std"),
        (["input.resize=5"], "resize 5"),
        (["input.size=0"], "input.size"),
        (["input.interpolation=area"], "bilinear"),
        (["model.classes=4"], "model.classes"),
        (["model.weights=default"], "model.weights"),
        (["model.timm=resnet18"], "two networks"),
        (["train.epochs=1"], "train.epochs"),
        (["decision.threshold=1.5"], "decision.threshold"),
        (["targets=['agx-orion']"], "agx-orion"),
    ],
)
def test_settings_that_contradict_the_network_are_refused(
    edgecnn: Command, here: Path, settings: list[str], words: str
) -> None:
    chosen = [part for setting in settings for part in ("--set", setting)]
    edgecnn("run", "mine.toml", "--trust-code", *chosen).refused(words)


def graph_recipe(here: Path) -> None:
    import onnx

    put_pictures(here / "small", (8, 8))
    onnx.save(class_model(3, RED), "theirs.onnx")
    Path("graph.toml").write_text(
        RECIPE.replace('python = "net.py:Colors"', 'onnx = "theirs.onnx"')
        .replace("size = [12, 20]\n", "")
        .replace('channels = "bgr"\nlayout = "nhwc"\n', "")
        .replace('"pictures"', '"small"')
    )


def test_a_graph_is_held_to_what_the_recipe_says_of_it(edgecnn: Command, here: Path) -> None:
    graph_recipe(here)
    said: Any = edgecnn("run", "graph.toml", "--set", "input.mean=[124,116,104]", "--until", "export")
    assert "counts in 0..255" in said.err
    for setting, words in (
        ("input.size=[8,16]", "3x8x16"),
        ("input.layout=nhwc", "nchw"),
        ("model.classes=5", "3 classes"),
        ("model.weights=w.pth", "weights inside"),
        ("model.labels=gone.txt", "gone.txt"),
        ("model.onnx=gone.onnx", "gone.onnx"),
    ):
        edgecnn("run", "graph.toml", "--set", setting, "--out", "other").refused(words)
    Path("theirs.onnx").write_bytes(b"")
    edgecnn("run", "graph.toml", "--out", "other").refused("theirs.onnx")
