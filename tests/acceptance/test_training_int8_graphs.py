"""`train --qat` as a user calls it: two schemes, a kill between them, a layer left out, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:  # imported before the first test of this file
    import onnx
    from onnx import numpy_helper

    from tests.acceptance.channel_pictures import Result

pytestmark = [pytest.mark.torch, pytest.mark.onnx]

EXCLUDED = ("--set", "quantize.method=mse", "--set", 'quantize.exclude=["fc3"]')


@pytest.fixture
def run(digits: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("model.safetensors", "model.fp32.onnx", "model.calib.json"):
        for path in digits.glob(f"{name}*"):
            shutil.copy(path, folder)
    return folder


def trained(edgecnn: Callable[..., Result], run: Path, *more: object, epochs: int = 1) -> Result:
    return edgecnn(
        "train", "lenet5-digits", "--qat", "--out", run, "--set", f"qat.epochs={epochs}", "--threads", 1, *more
    )


def parts(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    graph = onnx.load(path).graph
    return [node.op_type for node in graph.node], {t.name: numpy_helper.to_array(t) for t in graph.initializer}


def test_interrupted_between_two_graphs_it_goes_on(
    edgecnn: Callable[..., Result], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgecnn.pytorch.qat.train as training

    once, calls = training.train, list[Path]()

    def stop_in_the_second(recipe: object, folder: Path, **more: object) -> object:
        calls.append(folder)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return once(recipe, folder, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train", stop_in_the_second)
    said = trained(edgecnn, run, *EXCLUDED)
    assert said.code == 130
    assert "--resume" in said.err
    assert [path.name for path in calls] == ["ort-cpu", "tensorrt"]
    first, second = (run / f"model.int8-{scheme}.onnx" for scheme in ("ort-cpu", "tensorrt"))
    before = first.read_bytes()
    assert not second.exists()

    monkeypatch.setattr(training, "train", once)
    trained(edgecnn, run, *EXCLUDED).refused("a trained INT8 graph is there", "--resume")
    trained(edgecnn, run, *EXCLUDED[:2], "--resume").refused("quantize.exclude changed", "settings it was started with")
    trained(edgecnn, run, *EXCLUDED, "--resume", epochs=3).refused("qat.epochs was 1, now 3")
    said = trained(edgecnn, run, *EXCLUDED, "--resume", "--json")
    assert said.code == 0, said.said
    assert first.read_bytes() == before
    rows = {row["scheme"]: row for row in json.loads(said.out)}
    assert {scheme: row["graph"] for scheme, row in rows.items()} == {"ort-cpu": str(first), "tensorrt": str(second)}
    for scheme, row in rows.items():
        assert row["sqnr_db"] >= 40
        assert row["n"] == 540
        (start_nodes, start), (nodes, end) = (
            parts(path) for path in (run / "qat" / scheme / "start.onnx", Path(row["graph"]))
        )
        assert nodes == start_nodes
        assert start.keys() == end.keys()
        moved = {name for name in start if (start[name] != end[name]).any()}
        assert moved, "something was learned"
        assert not [name for name in moved if "zero" in name or "weight_scale" in name]
        assert any("scale" in name for name in moved) == (scheme == "tensorrt"), "integer biases are in units of scales"
        assert all(start[name].dtype == end[name].dtype for name in start)
        kept = [name for name in end if name.startswith("fc3.weight") and "scale" not in name and "zero" not in name]
        assert [end[name].dtype.kind for name in kept] == ["f"], "left out of INT8, it stays so"
    said = edgecnn("validate", second, "--reference", run / "model.fp32.onnx", "--data", "digits", "--json")
    assert json.loads(said.out)["top1_pct"] == pytest.approx(rows["tensorrt"]["top1_pct"], abs=0.4)


def test_what_is_said_names_the_keys_of_qat(edgecnn: Callable[..., Result], run: Path, tmp_path: Path) -> None:
    said = trained(edgecnn, run, *EXCLUDED, "--set", "qat.learning_rate=1e9")
    said.refused("training diverged", "lower qat.learning_rate (now 1e+09)")
    assert "train." not in said.err.split("hint:")[1]
    assert not (run / "model.int8-ort-cpu.onnx").exists()
    other = trained(edgecnn, run, *EXCLUDED, "--set", "model.name=resnet20_cifar")
    other.refused("model.fp32.onnx: is of lenet5, and", "of resnet20_cifar")
    own = tmp_path / "own.toml"
    own.write_text('[model]\ntimm = "resnet10t"\nweights = "none"\n[data]\nsource = "digits"\n')
    for recipe, named in (
        ("lenet5-digits-verify", "a classifier's"),
        (own, "only networks of the zoo are trained here"),
    ):
        edgecnn("train", recipe, "--qat", "--out", run).refused(named, "leave --qat out")
    without = ("--set", 'precisions=["fp32", "fp16"]')
    edgecnn("train", "lenet5-digits", "--qat", "--out", run, *without).refused("precisions has no 'int8'")
    edgecnn("train", "lenet5-digits", "--qat", "--out", run).refused("set it: --set qat.epochs=2")


def test_one_process_trains(edgecnn: Callable[..., Result], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    trained(edgecnn, run, *EXCLUDED).refused("of 2 processes", "without torchrun")
    assert not (run / "qat").exists(), "refused before anything is quantized"
