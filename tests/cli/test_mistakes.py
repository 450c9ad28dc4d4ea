"""Mistakes of a user at the command line: what is there survives, and the message says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from tests.fakes.graphs import build

pytestmark = pytest.mark.torch

Call = Callable[..., Any]


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A float32 graph in the current folder."""
    monkeypatch.chdir(tmp_path)
    onnx.save(build("c = Conv(input)\nr = Relu(c)\nlogits = Conv(r)"), "m.onnx")
    return Path("m.onnx")


@pytest.mark.parametrize(
    "call",
    [
        ("quantize", "m.onnx", "--precision", "fp16", "-o", "./m.onnx"),
        ("quantize", "m.onnx", "--precision", "int8", "--data", "digits", "-o", "m.onnx"),
        ("build", "m.onnx", "-o", "m.onnx"),
        ("validate", "x.onnx", "--reference", "m.onnx", "--data", "digits", "-o", "m.onnx"),
        ("bench", "--engine", "m.onnx", "-o", "m.onnx"),
        ("bench", "--engine", "x.onnx", "--vs", "m.onnx", "-o", "m.onnx"),
        ("reference", "m.onnx", "--data", "digits", "-o", "m.onnx"),
        ("export", "lenet5", "--checkpoint", "m.onnx", "-o", "m.onnx"),
    ],
    ids=lambda call: f"{call[0]}-{call[2]}",
)
def test_no_command_writes_over_what_it_reads(call: tuple[str, ...], graph: Path, edgecnn: Call) -> None:
    before = graph.read_bytes()
    assert "m.onnx: would be overwritten: it is read from" in edgecnn(*call).refused()
    assert graph.read_bytes() == before


def test_calibrate_and_bench_do_not_write_over_files_that_belong_together(graph: Path, edgecnn: Call) -> None:
    Path("m.onnx.json").write_text("{}")
    assert "it is the sidecar of m.onnx" in edgecnn("bench", "--engine", graph, "-o", "m.onnx.json").refused()
    assert Path("m.onnx.json").read_text() == "{}"


def test_an_output_that_cannot_be_is_refused_before_the_work(graph: Path, edgecnn: Call) -> None:
    Path("folder").mkdir()
    for output, message in (
        ("folder", "it is a folder"),
        ("h.txt", "does not end in .onnx"),
        ("m.onnx/h.onnx", "m.onnx is not a folder"),
        ("/proc/h.onnx", "/proc"),
    ):
        assert message in edgecnn("quantize", graph, "--precision", "fp16", "-o", output).refused()
    assert sorted(p.name for p in Path().iterdir()) == ["folder", "m.onnx"]


def test_a_batch_beyond_the_memory_is_no_bug(graph: Path, edgecnn: Call) -> None:
    batch = 10**13  # of this graph's images no 64-bit machine can address so many
    for call in (
        ("build", graph, "--max-batch", batch, "-o", "e.onnx"),
        ("bench", "--engine", graph, "--batch", batch),
    ):
        assert "not enough memory" in edgecnn(*call).refused()
    assert not Path("e.onnx").exists()


def test_what_is_missing_is_named(graph: Path, edgecnn: Call) -> None:
    Path("images/cat").mkdir(parents=True)
    swapped = edgecnn("calibrate", "images", "--data", graph, "-o", "m.calib.json").refused()
    assert "images: no such file" in swapped
    bare = edgecnn("calibrate", graph, "--data", "images", "-o", "m.calib.json").refused()
    assert "the model has no sidecar" in bare
    assert "edgecnn import --preprocess" in bare


def test_a_folder_without_images_is_told(graph: Path, edgecnn: Call) -> None:
    Path("images").mkdir()
    preprocessing = {"resize": 8, "crop": 8, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    content = graph.read_bytes()
    sidecar = Sidecar(kind="graph", preprocessing=preprocessing)
    write_artifact(graph, lambda path: path.write_bytes(content) and None, sidecar)
    assert "images: no images" in edgecnn("predict", graph, "images").refused()


def test_calibration_images_may_have_classes_of_their_own(graph: Path, edgecnn: Call) -> None:
    rng = np.random.default_rng(0)
    onnx.save(build("c = Conv(input)\nlogits = Conv(c)", channels=3), "rgb.onnx")
    content = Path("rgb.onnx").read_bytes()
    preprocessing = {"resize": 8, "crop": 8, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    sidecar = Sidecar(kind="graph", preprocessing=preprocessing, labels=["tench", "goldfish", "cock", "hen"])
    write_artifact(Path("rgb.onnx"), lambda path: path.write_bytes(content) and None, sidecar)
    for k in range(6):
        folder = Path("own") / ("bird", "snake")[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{k}.png")
    made = edgecnn("calibrate", "rgb.onnx", "--data", "own", "-o", "own.calib.json", "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["n"] == 6
    judged = edgecnn("validate", "rgb.onnx", "--reference", "rgb.onnx", "--data", "own").refused()
    assert "class 'bird' is not one of the model's 4 classes" in judged


def test_weights_alone_are_no_reference(graph: Path, edgecnn: Call) -> None:
    Path("w.safetensors").write_bytes(b"weights")
    asked = edgecnn("reference", "w.safetensors", "--data", "images").refused()
    assert "do not say which network" in asked
    assert "edgecnn export NETWORK --checkpoint w.safetensors" in asked


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "--engine", "m.onnx"),
        ("build", "m.onnx"),
        ("calibrate", "m.onnx", "--data", "digits"),
        ("predict", "m.onnx", "x.png"),
        ("reference", "m.onnx", "--data", "digits"),
        ("run", "lenet5-digits"),
        ("train", "lenet5-digits"),
        ("validate", "m.onnx", "--reference", "m.onnx", "--data", "digits"),
    ],
    ids=lambda command: command[0],
)
def test_more_threads_than_any_machine_has_are_refused(command: tuple[str, ...], edgecnn: Call) -> None:
    """ONNX Runtime hangs when the system refuses it a thread."""
    assert "Invalid value for '--threads'" in edgecnn(*command, "--threads", 100_000).refused()


def test_a_name_that_is_no_utf8_is_named(tmp_path: Path, edgecnn: Call) -> None:
    for name in (b"a/caf\xe9.png", b"a/1.png", b"b/0.png", b"b/1.png"):
        path = Path(os.fsdecode(bytes(tmp_path) + b"/data/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((36, 36), np.uint8)).save(path)
    train = ("train", "lenet5-digits", "--set", "train.batch=2", "--out", tmp_path / "out")
    assert r"caf\udce9.png" in edgecnn(*train, "--data", tmp_path / "data").refused()
    assert (
        "no data set '/no/where/\N{GRINNING FACE}'"
        in edgecnn(*train, "--data", "/no/where/\N{GRINNING FACE}").refused()
    )


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a": 1, "a": 2}', b"[1]"])
def test_a_safetensors_header_that_is_none(edgecnn: Callable[..., Any], tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "not a safetensors file" in edgecnn("inspect", path).refused()
