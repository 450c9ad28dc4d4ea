"""Images are not judged by what they were trained or calibrated on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.open import is_split
from edgecnn.errors import DataError
from edgecnn.pipeline.preflight import check_recipe
from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.load import load_recipe

pytestmark = pytest.mark.onnx

RECIPE = """
[model]
name = "lenet5"
classes = 2
weights = "w.safetensors"
[data]
source = "pictures"
"""


def draw(*folders: str) -> None:
    """Two classes of two pictures in each folder."""
    for seed, folder in enumerate(folders):
        rng = np.random.default_rng(seed)
        for k in range(4):
            path = Path("pictures", folder, "ab"[k % 2], f"{k}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(path)


@pytest.mark.parametrize(
    ("precisions", "epochs", "said"),
    [
        ('["fp32", "int8"]', 0, "calibrated on the images that it is judged by"),
        ('["fp32"]', 1, "trained on the images that it is judged by"),
        ('["fp32", "fp16"]', 2, "trained and calibrated on the images that it is judged by"),
    ],
)
def test_a_folder_that_is_not_split_serves_no_two_purposes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precisions: str, epochs: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.safetensors").write_bytes(b"weights")
    Path("own.toml").write_text(f"precisions = {precisions}\n{RECIPE}[train]\nepochs = {epochs}\n")
    draw("")
    with pytest.raises(DataError, match=f"'pictures': {said}") as refused:
        run_recipe(load_recipe("./own.toml"), Path("run"), lambda text: None, until="reference")
    assert "folders train and test" in refused.value.hint
    assert not Path("run").exists(), "before anything was made"


def test_a_folder_is_judged_as_it_is_where_nothing_learns_from_it_or_it_is_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.safetensors").write_bytes(b"weights")
    Path("own.toml").write_text(RECIPE)
    draw("")
    check_recipe(load_recipe("./own.toml", ['precisions=["fp32"]']))
    draw("train", "val")
    for folder in "ab":
        shutil.rmtree(Path("pictures", folder))
    check_recipe(load_recipe("./own.toml", ["train.epochs=1"]))


def test_an_array_has_no_split(tmp_path: Path) -> None:
    assert not is_split(str(tmp_path / "x.npz"))
    assert is_split("digits")
    assert is_split("mnist:somewhere")


def test_a_part_of_the_test_images_is_nothing_to_calibrate_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.safetensors").write_bytes(b"weights")
    Path("own.toml").write_text(RECIPE + 'calibration_source = "some"\n')
    draw("")
    shutil.copytree("pictures", "some")
    Path("some/a/0.png").unlink()
    recipe = load_recipe("./own.toml", ['precisions=["int8"]', "train.epochs=0"])
    with pytest.raises(DataError, match="those that the network is judged by"):
        check_recipe(recipe)
    for path in Path("some").rglob("[0-9].png"):
        Image.new("L", (8, 8), 7).save(path)
    check_recipe(recipe)
