"""A recipe for a device, run on a machine that is none, from weights and images of the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.data.calibration_set import read_manifest

if TYPE_CHECKING:
    from safetensors.torch import save_file

    from edgecnn.pytorch.models import build_model

pytestmark = pytest.mark.torch

RECIPE = """
targets = ["agx-orin"]
precisions = ["fp32", "int8"]
[model]
name = "lenet5"
[data]
source = "imgs"
calibration = "mine.toml"
[quantize]
method = "minmax"
[tolerances]
top1_drop_pp_max = 1.0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and a rule; weights, and images of ten classes, lie elsewhere."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in range(10):
            folder = tmp_path / "data" / split / str(name)
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(random.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{k}.png")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("mine.toml").write_text('source = "folder"\nimages = 20\n')
    Path("orin.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def weights(here: Path) -> Path:
    path = here / "lenet5.safetensors"
    save_file(build_model("lenet5", 10).state_dict(), path)
    return path


def test_to_graphs_and_what_remains_and_on_from_there(here: Path, weights: Path, edgecnn: Callable[..., Any]) -> None:
    command = ("run", "./orin.toml", "--data", here / "data", "--set", f"model.weights={weights}", "--out", "made")
    done = edgecnn(*command)
    assert done.code == 3, done.err
    assert "agx-orin is not this machine" in done.err
    assert "edgecnn bundle made --for agx-orin" in done.err
    graphs = {path.name for path in Path("made").glob("*.onnx")}
    assert graphs == {"model.fp32.onnx", "model.int8-tensorrt.onnx"}
    manifest = read_manifest(Path("made/calibration.txt"))
    assert len(manifest.ids) == 20
    assert manifest.hashed
    facts = read_sidecar(Path("made/model.calib.json")).facts
    assert facts["data_sha256"] == manifest.sha256
    assert facts["calibration_rule"] == "20 train images of folder, balanced, seed 0"
    assert "everything is up to date" in edgecnn(*command).err
    weights.rename(here / "away")
    assert "everything is up to date" in edgecnn(*command).err, "the weights stayed behind"
    (here / "away").rename(weights)
    Path("mine.toml").write_text('source = "folder"\nimages = 30\n')
    again = edgecnn(*command)
    assert "calibration_rule changed from 20 train images" in again.err
    assert len(read_manifest(Path("made/calibration.txt")).ids) == 30


def test_images_to_calibrate_with_lie_elsewhere(here: Path, weights: Path, edgecnn: Callable[..., Any]) -> None:
    (here / "data/train").rename(here / "calib")
    command = ["run", "./orin.toml", "--data", here / "data", "--set", f"model.weights={weights}", "--out", "made"]
    assert "no folder train" in edgecnn(*command).refused()
    assert not Path("made").exists(), "told before anything is made"
    same = edgecnn(*command, "--calibration-data", here / "data/val").refused()
    assert "those that the network is judged by" in same
    done = edgecnn(*command, "--calibration-data", here / "calib")
    assert done.code in (0, 3), done.err
    assert read_manifest(Path("made/calibration.txt")).source == str(here / "calib")
    assert "everything is up to date" in edgecnn(*command, "--calibration-data", here / "calib").err


def test_a_test_set_decides_which_images_are_judged(here: Path, weights: Path, edgecnn: Callable[..., Any]) -> None:
    sets = ("calibration-set", here / "data", "--test", "--images", "10", "-o", "half.txt")
    assert edgecnn(*sets, "--version", "2").code == 0
    common = ("--data", here / "data", "--set", f"model.weights={weights}", "--set", "data.test=half.txt")
    done = edgecnn("run", "./orin.toml", *common, "--out", "made")
    assert done.code in (0, 3), done.err
    sidecar = read_sidecar(Path("made/reference.npz"))
    assert sidecar.facts["test_set"].startswith("half 2 (")
    assert len(np.load("made/reference.npz")["ids"]) == 10
    assert edgecnn(*sets, "--version", "3").code == 0
    assert "test_set changed from half 2" in edgecnn("run", "./orin.toml", *common, "--out", "made").err
    wrong = edgecnn(
        "run", "./orin.toml", *common, "--set", "data.test=made/calibration.txt", "--out", "other"
    ).refused()
    assert "holds train images" in wrong


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["targets=['agx-orion']"], "there is no device 'agx-orion'"),
        (["data.calibration=imagenet-1024"], "a rule for imagenet, and the images are of"),
        (["data.calibration=folder-512"], "asks for 512 training images"),
        (["data.calibration=nothing"], "no calibration set 'nothing'"),
        (["model.weights=none"], "the network would stay random"),
        (["model.weights=gone.safetensors"], "no such file"),
        (["calibration=x"], "calibration is not known"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    here: Path, weights: Path, edgecnn: Callable[..., Any], settings: list[str], words: str
) -> None:
    changed = [part for setting in (f"model.weights={weights}", *settings) for part in ("--set", setting)]
    done = edgecnn("run", "./orin.toml", "--data", here / "data", *changed, "--out", "made")
    assert words in done.refused()
    assert not Path("made").exists()


def test_classes_of_the_test_images_that_have_no_training_images(here: Path, edgecnn: Callable[..., Any]) -> None:
    (here / "data/train/7").rename(here / "data/train/seven")
    done = edgecnn("run", "./orin.toml", "--data", here / "data", "--set", "train.epochs=1", "--out", "made")
    assert "1 classes of the test images have no training images: '7'" in done.refused()
    assert not Path("made").exists()


def test_a_copy_with_settings(here: Path, edgecnn: Callable[..., Any]) -> None:
    assert edgecnn("recipe", "copy", "./orin.toml", "new.toml", "--set", "train.epochs=3").code == 0
    assert "epochs = 3" in Path("new.toml").read_text()
    assert "epoch is not known" in edgecnn("recipe", "copy", "./orin.toml", "x.toml", "--set", "epoch=3").refused()
    assert not Path("x.toml").exists()


def test_a_rule_is_written_down_by_a_command(here: Path, edgecnn: Callable[..., Any]) -> None:
    assert edgecnn("calibration-set", f"mine.toml:{here / 'data'}", "-o", "set.txt").code == 0
    assert len(read_manifest(Path("set.txt")).ids) == 20
    refused = edgecnn("calibration-set", f"mine.toml:{here / 'data'}", "--images", "3", "-o", "set.txt").refused()
    assert "--images" in refused
    assert "it is for test sets" in edgecnn("calibration-set", "digits", "--version", "3", "-o", "set.txt").refused()


@pytest.mark.slow
def test_resnet20_from_real_weights(shared: Path, tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    weights, data = shared / "weights/resnet20_cifar10jpeg.safetensors", shared / "data/cifar10-jpeg"
    done = edgecnn(
        *("run", "resnet20-cifar10-orin", "--data", data, "--set", f"model.weights={weights}"),
        *("--out", tmp_path / "made"),
    )
    assert done.code in (0, 3), done.err
    assert "agx-orin is not this machine" in done.err
    assert (tmp_path / "made/model.int8-tensorrt.onnx").exists()
    assert read_manifest(tmp_path / "made/calibration.txt").hashed
