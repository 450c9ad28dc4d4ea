"""Engines that are built several times, locked and qualified, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.channel_pictures import RED, Result, class_model, level, save_color

pytestmark = pytest.mark.onnx

Command = Callable[..., Result]
CLASSES = 4
RECIPE = """
precisions = ["fp32"]
targets = ["cpu"]
[model]
onnx = "net.onnx"
[input]
size = 8
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[data]
source = "images"
[bench]
duration_s = 0.1
warmup_ms = 0
[tolerances]
top1_drop_pp_max = 20
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_blocks: None) -> Path:
    """The user's folder, with a recipe, a network and pictures; commands run in it."""
    for split in ("train", "test"):
        for label in range(CLASSES):
            for k in range(10):
                save_color(
                    tmp_path / "images" / split / f"c{label}" / f"{k}.png", (level(label, CLASSES), k, 9 * label)
                )
    (tmp_path / "net.onnx").write_bytes(class_model(CLASSES, RED).SerializeToString())
    (tmp_path / "mine.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_report_says_which_build_is_kept_and_the_gate_judges_all(folder: Path, edgecnn: Command) -> None:
    assert edgecnn("run", "mine.toml", "--rebuilds", 3, "--threads", 1).code in (0, 3)
    target = folder / "runs" / "mine" / "cpu"
    (row,) = json.loads((target / "report.json").read_text())["measurements"]
    each = row["rebuilds_latency_ms_p50"]
    assert (row["rebuilds_n"], len(each)) == (3, 3)
    assert row["latency_ms_p50"] == sorted(each)[1] == each[row["rebuild_kept"] - 1]
    assert f"kept is build {row['rebuild_kept']}, the median; judged by the worst" in (target / "report.md").read_text()
    assert sorted(p.name for p in (target / "builds").iterdir()) == ["1", "2", "3"]
    assert edgecnn("gate", "runs/mine", "--record").code in (0, 3)
    (recorded,) = (folder / "baselines" / "mine").glob("*threads.json")
    band = json.loads(recorded.read_text())["engines"]["fp32"]["latency_ms_p50_band"]
    assert band == [min(each), max(each)]
    (target / "builds" / "2" / "fp32.accuracy.json").write_text("{")
    refused = edgecnn("gate", "runs/mine")
    assert (refused.code, refused.err.count("error: "), refused.err.count("hint: ")) == (2, 1, 1)
    assert "builds/2/fp32.accuracy.json" in refused.err


def test_baselines_that_earlier_versions_wrote_are_held_against(folder: Path, edgecnn: Command) -> None:
    assert edgecnn("run", "mine.toml", "--threads", 1).code in (0, 3)
    assert edgecnn("gate", "runs/mine", "--record").code in (0, 3)
    (recorded,) = (folder / "baselines" / "mine").glob("*threads.json")
    content = json.loads(recorded.read_text())
    content["engines"]["fp32"] |= {"mode": "latency", "latency_ms_p50": 1e6, "latency_ms_p50_ci": [1e6, 1e6]}
    content["engines"]["fp32"].pop("latency_unstable", None)  # of this machine's moment, not of what is written here
    content["accepted"] = content.pop("engines")
    recorded.write_text(json.dumps(content))
    judged = edgecnn("gate", "runs/mine", "--json")
    assert judged.code in (0, 3), judged.err
    (verdict,) = json.loads(judged.out)
    assert "PASS" in [c["verdict"] for c in verdict["checks"] if c["tolerance"] == "baseline latency_ms_p50"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("build", "net.onnx", "--target", "cpu", "--locked"), "nothing to lock"),
        (("build", "net.onnx", "--target", "cpu", "--locked", "--rebuilds", 2), "--rebuilds with --locked"),
        (("build", "net.onnx", "--target", "cpu", "--workspace-mb", 5, "-o", "x.onnx"), "--workspace-mb: only"),
        (("build", "net.onnx", "--timing-cache", "x.cache", "--sm", "86"), "--timing-cache and --sm: only"),
        (("bench", "--engine", "net.onnx", "--mode", "pipelined"), "only engines of TensorRT"),
        (("bench", "--engine", "net.onnx", "--mode", "pipeline"), "not known"),
        (("bench", "--engine", "net.onnx", "--streams", 2), "single-shot"),
        (("bench", "--engine", "net.onnx", "--no-transfers"), "single-shot"),
        (("bench", "--engine", "net.onnx", "--export", "x"), "does not time layers"),
        (("bench", "--engine", "net.onnx", "--strict"), "a Jetson"),
        (("qualify", "runs/mine", "--python", "nowhere/python"), "runs/mine"),
    ],
)
def test_what_is_not_to_be_had_is_refused(folder: Path, edgecnn: Command, command: tuple, words: str) -> None:
    refused = edgecnn(*command)
    assert (refused.code, refused.out) == (2, "")
    assert words in refused.err
    assert (refused.err.count("error: "), refused.err.count("hint: ")) == (1, 1)
    assert not list(folder.glob("x*"))


def test_the_same_environment_qualifies(folder: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert edgecnn("run", "mine.toml", "--threads", 1).code in (0, 3)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    before = sorted(folder.rglob("*"))
    found = edgecnn("qualify", "runs/mine", "--python", sys.executable, "--threads", 1, "--json")
    assert found.code in (0, 1, 3), found.err  # a ratio of two processes on a busy machine may be anything
    said = json.loads(found.out)
    assert said["before"]["tools"] == said["after"]["tools"]
    (row,) = said["measurements"]
    assert (row["n"], row["agreement_pct"], row["top1_lost"]) == (4 * 10, 100, 0)
    assert {c["verdict"] for c in said["checks"] if c["tolerance"] == "top1_drop_pp_max"} == {"PASS"}
    assert sorted(folder.rglob("*")) == before
