"""`calibrate --data-free`: ranges of a graph of which no image is at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import edgecnn as ec
from edgecnn.artifact.sidecar import read_json, read_sidecar
from edgecnn.cli import main

pytestmark = pytest.mark.torch
WITHOUT = "calibrated without images (4 images made from batch normalization)"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with batch normalization, exported from a file of weights that lies beside it."""
    import safetensors.torch

    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.weights import randomize

    folder = tmp_path_factory.mktemp("data-free")
    network = build_model("resnet20_cifar")
    randomize(network, (3, 32, 32), 0)
    safetensors.torch.save_file(network.state_dict(), folder / "mine.safetensors")
    return ec.export("resnet20_cifar", folder / "m.fp32.onnx", checkpoint=folder / "mine.safetensors", max_batch=2)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecnn.steps import _data_free

    monkeypatch.setattr(_data_free, "IMAGES", 4)
    monkeypatch.setattr(_data_free, "STEPS", 2)


def test_ranges_say_that_no_image_was_seen_and_so_does_all_that_is_made_of_them(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = tmp_path / "m.calib.json"
    assert main(["calibrate", str(graph), "--data-free", "-o", str(ranges)]) == 0
    assert "calibrated without images: 4 were made" in capsys.readouterr().err
    content = read_json(ranges)
    assert content["data"] == "4 images made from batch normalization"
    assert content["images"] == 4

    int8 = tmp_path / "m.int8.onnx"
    assert (
        main(["quantize", str(graph), "--precision", "int8", "--ranges", str(ranges), "-o", str(int8), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["warnings"][-1].startswith(WITHOUT)
    assert "calibrated_without_images" in read_sidecar(int8).facts

    images = tmp_path / "test.npz"
    pictures = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    np.savez(images, input=pictures, label=np.arange(4))
    found = ec.validate(int8, graph, data=images)
    assert found.findings[-1].startswith(WITHOUT)
    assert not any("without images" in said for said in ec.validate(graph, graph, data=images).findings)


def test_a_network_without_batch_normalization_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = ec.export("lenet5", tmp_path / "lenet5.fp32.onnx", weights="none")
    assert main(["calibrate", str(graph), "--data-free", "-o", str(tmp_path / "x.calib.json")]) == 2
    said = capsys.readouterr().err
    assert f"error: {graph}: the network has no batch normalization" in said
    assert "hint: calibrate with images: --data" in said
    assert not (tmp_path / "x.calib.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data-free", "--data", "digits"], "or with --data-free none at all"),
        ([], "calibrate takes images (--data)"),
        (["--data-free", "--check"], "--check is of images"),
        (["--data-free", "--images", "9"], "--images is of images"),
        (["--data", "digits", "--trust-code"], "no code is run but with --data-free"),
    ],
)
def test_what_goes_together(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = [] if "--check" in words else ["-o", str(tmp_path / "x.calib.json")]
    assert main(["calibrate", str(tmp_path / "none.onnx"), *words, *output]) == 2
    assert said in capsys.readouterr().err


def test_weights_that_are_others_now_are_refused(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (graph, graph.with_name(f"{graph.name}.json")):
        shutil.copy(file, tmp_path)
    words = ["calibrate", str(tmp_path / graph.name), "--data-free", "-o", str(tmp_path / "x.calib.json")]
    assert main(words) == 2
    assert "mine.safetensors: no weights" in capsys.readouterr().err
    (tmp_path / "mine.safetensors").write_bytes(b"other")
    assert main(words) == 2
    assert "mine.safetensors: other weights than those" in capsys.readouterr().err
    (tmp_path / f"{graph.name}.json").unlink()
    assert main(words) == 2
    assert "does not say which network" in capsys.readouterr().err
