"""TensorRT's old calibration caches, written and read: no file of the user's is lost, no option ignored."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.channel_pictures import Result, class_model, import_model, save_color

pytestmark = pytest.mark.onnx

Cli = Callable[..., Result]


@pytest.fixture
def graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    for k in range(4):
        for split in ("train", "val"):
            save_color(tmp_path / "data" / split / f"c{k}" / "a.png", (40 * k + 10, 20 * k, 99))
    return import_model(capfd, class_model(4, 0), tmp_path / "net.fp32.onnx", [f"c{k}" for k in range(4)])


def test_a_cache_comes_back_to_the_bit(edgecnn: Cli, graph: Path, tmp_path: Path) -> None:
    cache, ranges = tmp_path / "old.cache", tmp_path / "net.calib.json"
    made = ("calibrate", graph, "--data", tmp_path / "data", "-o", ranges, "--trt-cache", cache)
    assert edgecnn(*made, "--trt-cache-version", "8602").code == 0
    header, *lines = cache.read_text().splitlines()
    assert header == "TRT-8602-EntropyCalibration2"
    scales = {line.rpartition(": ")[0]: line.rpartition(": ")[2] for line in lines}
    found = edgecnn("import-ranges", cache, "--graph", graph, "-o", tmp_path / "again.calib.json", "--json")
    assert found.code == 0, found.said
    again = {t["name"]: struct.pack(">f", np.float32(t["scale"])).hex() for t in json.loads(found.out)["tensors"]}
    assert again == scales
    quantize = ("quantize", graph, "--precision", "int8", "--ranges", tmp_path / "again.calib.json")
    assert edgecnn(*quantize, "--method", "minmax", "-o", tmp_path / "int8.onnx").code == 0
    edgecnn(*quantize, "--method", "entropy", "-o", tmp_path / "other.onnx").refused("minmax")


def test_a_cache_never_replaces_what_it_is_made_of(edgecnn: Cli, graph: Path, tmp_path: Path) -> None:
    command = ("calibrate", graph, "--data", tmp_path / "data", "-o", tmp_path / "net.calib.json", "--trt-cache")
    sidecar = graph.with_name(f"{graph.name}.json")
    before = graph.read_bytes(), sidecar.read_bytes()
    for victim in (graph, sidecar, tmp_path / "net.calib.json", tmp_path):
        edgecnn(*command, victim).refused("--trt-cache")
    assert (graph.read_bytes(), sidecar.read_bytes()) == before
    assert not (tmp_path / "net.calib.json").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--check", "--trt-cache", "x.cache"), "--trt-cache"),
        (("--check", "-o", "x.calib.json"), "-o"),
        (("-o", "x.calib.json", "--test", "digits"), "--test"),
        (("-o", "x.calib.json", "--trt-cache-version", "8602"), "--trt-cache-version"),
        (("-o", "x.calib.json", "--trt-cache", "x.cache", "--trt-cache-version", "0"), "--trt-cache-version"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    options: tuple[str, ...], named: str, edgecnn: Cli, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    edgecnn("calibrate", graph, "--data", tmp_path / "data", *options).refused(named)
    assert not list(tmp_path.glob("x.*"))


CACHES = {
    "of another graph": ("else: 3c810204\n", "of another graph"),
    "never positive": ("input: 00000000\nf: 00000000\n", "no scale above 0"),
    "infinite": ("input: 7f800000\n", "line 2"),
    "negative": ("input: bc810204\n", "line 2"),
    "without a tensor": ("", "without a tensor"),
}


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_does_not_fit_is_named(name: str, edgecnn: Cli, graph: Path, tmp_path: Path) -> None:
    content, said = CACHES[name]
    (tmp_path / "old.cache").write_text(f"TRT-8602-EntropyCalibration2\n{content}")
    edgecnn("import-ranges", tmp_path / "old.cache", "--graph", graph, "-o", tmp_path / "x.calib.json").refused(said)
    assert not (tmp_path / "x.calib.json").exists()


def test_a_timing_cache_never_replaces_the_graph(edgecnn: Cli, graph: Path) -> None:
    before = graph.read_bytes()
    edgecnn("build", graph, "--target", "cpu", "--timing-cache", graph).refused("--timing-cache")
    assert graph.read_bytes() == before
