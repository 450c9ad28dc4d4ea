"""`bench --end-to-end` as a user sees it: what the figures are of, and what is refused before a file is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests.acceptance.nets import PREPROCESSING, Net, pictures, write_folder
from tests.cli.conftest import Result

pytestmark = pytest.mark.onnx

Bench = Callable[..., Result]


@pytest.fixture
def bench(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Bench:
    """The command on an engine that takes uint8 pixels and names the best classes, with four pictures."""
    from edgecnn.cli import main

    net = Net(seed=2)
    onnx.save(net.model(net.head(net.relu(net.conv("c1", "input", (3, 8))))), tmp_path / "net.onnx")
    (tmp_path / "pre.json").write_text(json.dumps(PREPROCESSING))
    write_folder(tmp_path / "pictures", pictures(4)[0])
    served = ("--preprocess", str(tmp_path / "pre.json"), "--input", "uint8-nhwc", "--output", "top-k")
    assert main(["import", str(tmp_path / "net.onnx"), *served, "-o", str(tmp_path / "top.onnx")]) == 0

    def call(*more: object) -> Result:
        capfd.readouterr()
        how = ("--engine", tmp_path / "top.onnx", "--end-to-end", "--data", tmp_path / "pictures", *more)
        code = main(["bench", *map(str, how)])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def test_frames_a_second_are_pictures_a_second(bench: Bench) -> None:
    done = bench("--fps", 100, "--duration", 0.3, "--warmup", 0, "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert row["stream"]["n_offered"] == 30 == row["n_queries"] + row["stream"]["n_waiting"]
    assert "one by one" in bench("--fps", 100, "--batch", 4).refused()


def test_more_frames_than_can_be_counted_are_refused(bench: Bench) -> None:
    assert "allowed 10000000" in bench("--fps", 1e12, "--duration", 1).refused()
    for option in ("--fps", "--duration", "--soak", "--warmup"):
        for value in ("nan", "inf", "-1"):
            bench(option, value).refused()


def test_the_parts_are_the_whole(bench: Bench) -> None:
    row = json.loads(bench("--duration", 0.1, "--warmup", 0, "--batch", 3, "--json").out)
    assert sum(s["ms_mean"] for s in row["stages"]) == pytest.approx(row["latency_ms_mean"])
    assert sum(s["share_pct"] for s in row["stages"]) == pytest.approx(100)
    assert row["throughput_images_per_s"] == pytest.approx(3 * row["n_queries"] / row["duration_s"])


def test_a_picture_that_cannot_be_read_is_named(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "pictures" / "002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert "002.png" in bench("--duration", 0.1, "-o", tmp_path / "x.json").refused()
    assert not (tmp_path / "x.json").exists()


@pytest.mark.slow
def test_an_error_of_one_process_is_the_error(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "pictures" / "002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert "002.png" in bench("--duration", 0.1, "--processes", 2).refused()
