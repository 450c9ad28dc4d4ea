"""TensorRT on disk, for processes that are started, and in this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.backends import _cuda
from edgecnn.cli import main
from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.load import load_recipe
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice

VERSION = "10.16.1.11"
RECIPE = """
precisions = ["fp32", "int8"]
targets = ["gpu"]
[model]
onnx = "{0}/tiny.onnx"
[input]
size = 8
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[data]
source = "{0}/images"
[quantize]
method = "minmax"
[bench]
duration_s = 0.1
warmup_ms = 0.0
[tolerances]
top1_drop_pp_max = 10
agreement_pct_min = 90
latency_ms_p99_max = 1.5
"""


@pytest.fixture
def trt_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The fake TensorRT here and in every child, whose engines are native code."""
    from tests.fakes.on_disk import SITE

    module = install(monkeypatch, tmp_path, VERSION, FakeDevice())
    monkeypatch.setattr("edgecnn.backends.trt.NATIVE", True)
    monkeypatch.syspath_prepend(str(SITE))
    monkeypatch.setenv("FAKE_TENSORRT", VERSION)
    yield module
    _cuda._load.cache_clear()


@pytest.fixture(scope="session")
def on_the_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe tiny.toml, its images, and a folder `run` with everything that a host makes of it."""
    from tests.acceptance.channel_pictures import RED, class_model, level, save_color

    folder, classes = tmp_path_factory.mktemp("host"), 4
    for split, each in (("train", 2), ("test", 10)):
        for label in range(classes):
            for k in range(each):  # the red of a picture is its class
                color = (level(label, classes), 40 * label + k, 10 * k)
                save_color(folder / "images" / split / f"c{label}" / f"{k}.png", color)
    (folder / "tiny.onnx").write_bytes(class_model(classes, RED).SerializeToString())
    (folder / "tiny.toml").write_text(RECIPE.format(folder))
    recipe = load_recipe(str(folder / "tiny.toml"))
    run_recipe(recipe, folder / "run", lambda text: None, until="reference", threads=1)
    return folder


@pytest.fixture
def edgecnn(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`edgecnn("models")` -> exit code and both streams."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call
