"""Names that would act on a terminal, through every command that prints names, and through every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgecnn.cli import main
from edgecnn.cli.app import ORDER
from tests.fakes.tiny import CLASSES, tiny_graph

pytestmark = pytest.mark.onnx

NAME = "=1\x1b[31m\x9b2J\u202e|`<b>\nFORGED\rFORGED"
PREPROCESS = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
REFUSED: dict[str, list[str]] = {
    "calibration-set": ["{}", "-o", "x.txt"],
    "calibrate": ["{}", "--data", "{}", "-o", "x.calib.json"],
    "quantize": ["{}", "--precision", "fp16", "-o", "x.onnx"],
    "import-ranges": ["{}", "--graph", "{}", "-o", "x.calib.json"],
    "reference": ["{}", "--data", "{}", "-o", "x.npz"],
    "validate": ["{}", "--reference", "{}", "--data", "{}"],
    "bench": ["--engine", "{}"],
    "report": ["{}", "-o", "x.md"],
    "qualify": ["{}", "--python", "{}"],
    "push": ["{}", "owner/name"],
    "release": ["{}", "-o", "x.tar"],
    "monitor": ["{}", "-o", "x.jsonl"],
    "drift": ["{}", "{}"],
    "features": ["{}", "{}", "-o", "x.npz"],
    "neighbours": ["{}", "{}"],
    "same": ["{}", "{}", "{}"],
    "search": ["{}", "--max-drop", "1"],
    "sensitivity": ["{}", "--ranges", "{}", "--data", "{}"],
    "bundle": ["{}", "--for", "{}", "-o", "x.tar"],
    "recipe": ["show", "{}"],
    "models": ["--plot", "{}/x.txt"],
    "probe": ["{}", "--data", "{}"],
    "transfer-table": ["{}", "--model", "{}"],
    "targets": ["{}"],
    "check": ["{}"],
    "predict": ["{}", "{}"],
    "doctor": ["{}"],
}


def require_inert(*texts: str) -> None:
    for text in texts:
        assert not {"\x1b", "\x9b", "\u202e", "\r"} & set(text), text
        assert not any(line.startswith("FORGED") for line in text.split("\n")), text


TORCH = {"train", "export", "summary", "probe"}


@pytest.mark.parametrize("command", [pytest.param(c, marks=pytest.mark.torch) if c in TORCH else c for c in ORDER])
def test_every_refusal_says_the_name_and_obeys_none(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [word.format(NAME) for word in REFUSED.get(command, ["{}"])]
    assert main([command, *arguments]) in (1, 2)
    out, err = capfd.readouterr()
    require_inert(out, err)
    assert "=1\\x1b[31m" in err
    assert err.count("\nhint: ") == 1


def hostile_graph() -> onnx.ModelProto:
    """The tiny network, every node and tensor of which has such a name."""
    model = tiny_graph("fp32")
    for k, node in enumerate(model.graph.node):
        node.name = f"{NAME}: {k}, x"
        node.input[:] = [f"{NAME}{name}" if name != "input" else name for name in node.input]
        node.output[:] = [f"{NAME}{name}" for name in node.output]
    for tensor in (*model.graph.initializer, *model.graph.output):
        tensor.name = f"{NAME}{tensor.name}"
    model.producer_name = NAME
    return model


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph, class folders of pictures and a checkpoint's labels, all with such names."""
    folder = tmp_path_factory.mktemp("hostile")
    labels = [f"{NAME}{k}" for k in range(CLASSES - 1)] + ["#1"]
    rng = np.random.default_rng(0)
    for label in labels:
        (folder / NAME / label).mkdir(parents=True)
        for k in range(4):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / NAME / label / f"#{NAME}{k}.png")
    (folder / NAME / labels[0] / f"{NAME}.gif.heic").touch()  # left out
    (folder / NAME / labels[0] / f"{NAME}corrupt.png").write_bytes(b"no picture")
    (folder / "labels.json").write_text(json.dumps(labels))
    (folder / "preprocess.json").write_text(json.dumps(PREPROCESS))
    model = hostile_graph()
    onnx.save(model, folder / f"{NAME}.onnx")
    model.graph.node[1].op_type = NAME
    onnx.save(model, folder / f"{NAME}.odd.onnx")
    return folder


FLOW: dict[str, list[str]] = {
    "import": ["{name}.onnx", "--preprocess", "preprocess.json", "--labels", "labels.json", "-o", "{name}.fp32.onnx"],
    "calibration-set": ["{name}", "--images", "21", "-o", "{name}.txt"],
    "calibrate": ["{name}.fp32.onnx", "--data", "{name}.txt", "--skip-corrupt", "-o", "{name}.calib.json"],
    "quantize": ["{name}.fp32.onnx", "--precision", "int8", "--ranges", "{name}.calib.json", "--method", "minmax",
                 "--exclude", "*: 0, x", "-o", "{name}.int8.onnx"],
    "reference": ["{name}.fp32.onnx", "--data", "{name}", "-o", "{name}.npz"],
    "build": ["{name}.int8.onnx", "--target", "cpu", "-o", "{name}.engine.onnx"],
    "validate": ["{name}.engine.onnx", "--reference", "{name}.npz", "--data", "{name}", "-o", "{name}.accuracy.json"],
    "bench": ["--engine", "{name}.engine.onnx", "--duration", "0.01", "-o", "{name}.latency.json"],
    "predict": ["{name}.engine.onnx", "{name}/#1/#{name}0.png", "{name}/{name}0/{name}corrupt.png", "--skip-corrupt"],
    "inspect": ["{name}.engine.onnx"],
    "check": ["{name}.odd.onnx"],
}  # fmt: skip


def test_a_flow_of_such_names_shows_them_and_obeys_none(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(hostile)
    shown = dict[str, str]()
    for command, words in FLOW.items():
        code = main([command, *(word.format(name=NAME) for word in words)])
        out, err = capfd.readouterr()
        assert code == (2 if command == "check" else 0), (command, out, err)
        require_inert(out, err)
        shown[command] = out + err
    assert [command for command, text in shown.items() if "=1\\x1b[31m" not in text] == []
