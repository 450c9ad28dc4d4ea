"""A command lists each folder of images once, and looks at each image at most once before it reads it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgecnn.cli import main
from edgecnn.data.preprocess import Preprocessing
from tests.fakes.file_looks import counted_looks
from tests.fakes.tiny import CLASSES, SIZE, tiny_graph

OLD = sys.version_info < (3, 11)
pytestmark = [pytest.mark.onnx, pytest.mark.skipif(OLD, reason="pathlib of 3.10 keeps the functions it looks by")]

PREPROCESSING = Preprocessing(resize=SIZE, crop=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
EACH = 4
COMMANDS = {
    "calibration-set": "calibration-set IMAGES --images 10 -o chosen.txt",
    "test-set": "calibration-set IMAGES --test -o tests.txt",
    "rule": "calibration-set rule.toml:IMAGES -o ruled.txt",
    "calibrate": "calibrate net.fp32.onnx --data IMAGES -o x.calib.json --threads 1",
    "calibrate by manifest": "calibrate net.fp32.onnx --data made.txt:IMAGES -o x.calib.json --threads 1",
    "quantize": "quantize net.fp32.onnx --precision int8 --data IMAGES --method mse -o x.int8.onnx --threads 1",
    "reference": "reference net.fp32.onnx --data IMAGES -o x.npz",
    "validate": "validate net.fp32.onnx --reference net.reference.npz --data IMAGES -o x.json",
    "validate twice": "validate net.fp32.onnx --reference net.fp32.onnx --data IMAGES --geometry letterbox",
    "bench": "bench --engine net.fp32.onnx --end-to-end --data IMAGES --duration 0.05",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph, its reference, a manifest, a rule and images in folders train and val."""
    folder = tmp_path_factory.mktemp("one_pass")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in "abcde"[:CLASSES]:
            for k in range(EACH):
                path = folder / "images" / split / label / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(path)
    onnx.save(tiny_graph("fp32"), str(folder / "theirs.onnx"))
    (folder / "how.json").write_text(json.dumps(PREPROCESSING.to_json()))
    (folder / "labels.json").write_text(json.dumps(list("abcde"[:CLASSES])))
    (folder / "rule.toml").write_text('source = "folder"\nimages = 10\n')
    net, images = folder / "net.fp32.onnx", folder / "images"
    words = ["--preprocess", str(folder / "how.json"), "--labels", str(folder / "labels.json"), "-o", str(net)]
    assert main(["import", str(folder / "theirs.onnx"), *words]) == 0
    assert main(["reference", str(net), "--data", str(images), "-o", str(folder / "net.reference.npz")]) == 0
    assert main(["calibration-set", str(images), "--images", "10", "-o", str(folder / "made.txt")]) == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_each_folder_is_listed_once(command: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    root = made / "images"
    with counted_looks(root, monkeypatch) as looks:
        assert main(shlex.split(COMMANDS[command].replace("IMAGES", str(root)))) == 0
    classes = {name for name in looks.listed if "/" in name}
    assert len(classes) in (CLASSES, 2 * CLASSES), "of one split, or of both"
    assert set(looks.listed.values()) == {1}
    assert max([n for name, n in looks.stats.items() if name.endswith(".png")], default=0) <= 1


def test_looks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with counted_looks(tmp_path, monkeypatch) as looks:
        assert [*tmp_path.iterdir()] == [*tmp_path.glob("*")] == [tmp_path / "a.png"]
        assert (tmp_path / "a.png").is_file()
        assert (tmp_path / "a.png").stat().st_size == 0
    assert looks.listed["."] == 2
    assert looks.stats["a.png"] == 2
