"""Images that cannot be read stop calibrate and quantize, or are left out and counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.cli import main
from edgecnn.errors import DataError
from edgecnn.graph.calibration import collect
from edgecnn.steps._images import without_corrupt
from edgecnn.steps.calibrate import calibrate, calibration_images, check_images
from edgecnn.steps.import_ import import_onnx
from edgecnn.steps.quantize import quantize
from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx

PREPROCESS = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
CORRUPT = ("a/2.png", "b/0.png", "b/9.png")
SAID = "3 of 24 images left out, the first: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph, `whole` images three of which cannot be read, and `clean` ones without these."""
    folder, rng = tmp_path_factory.mktemp("corrupt"), np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "clean" / name).mkdir(parents=True)
        for k in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / "clean" / name / f"{k}.png")
    shutil.copytree(folder / "clean", folder / "whole")
    for k, name in enumerate(CORRUPT):
        (folder / "clean" / name).unlink()
        content = (folder / "whole" / name).read_bytes()
        (folder / "whole" / name).write_bytes(content[:40] if k else b"no picture")
    (folder / "p.json").write_text(json.dumps(PREPROCESS))
    onnx.save(tiny_graph("fp32"), folder / "net.onnx")
    import_onnx(folder / "net.onnx", folder / "net.fp32.onnx", preprocess=str(folder / "p.json"))
    return folder


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return {key: value for key, value in found.items() if key not in ("provenance", "data")}


def test_calibrate_refuses_or_leaves_out_and_counts(folder: Path, tmp_path: Path, capfd: Any) -> None:
    graph, ranges = folder / "net.fp32.onnx", tmp_path / "x.calib.json"
    with pytest.raises(DataError, match=r"a/2\.png: not a readable image"):
        calibrate(graph, ranges, data=folder / "whole")
    assert main(["calibrate", str(graph), "--data", str(folder / "whole"), "--skip-corrupt", "-o", str(ranges)]) == 0
    assert capfd.readouterr().err.count(SAID) == 1
    assert read_sidecar(ranges).facts["corrupt_calibration_images"] == 3
    calibrate(graph, tmp_path / "clean.calib.json", data=folder / "clean")
    assert content(ranges) == content(tmp_path / "clean.calib.json"), "as if they had not been there"


def test_a_calibration_that_was_killed_goes_on_without_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "_SAVE_EVERY", 4)
    graph, ranges = folder / "net.fp32.onnx", tmp_path / "x.calib.json"
    settings: dict[str, Any] = {"data": folder / "whole", "skip_corrupt": True, "batch": 4, "threads": 1}

    def stop(done: int, total: int) -> None:
        assert total == 21
        if done == 12:
            raise KeyboardInterrupt

    seen = list[int]()
    with pytest.raises(KeyboardInterrupt):
        calibrate(graph, ranges, progress=stop, **settings)
    calibrate(graph, ranges, progress=lambda done, total: seen.append(done), **settings)
    assert seen[0] > 4, "it has gone on"
    calibrate(graph, tmp_path / "clean.calib.json", data=folder / "clean", batch=4, threads=1)
    assert content(ranges) == content(tmp_path / "clean.calib.json")


def test_parts_of_what_is_left_add_up(folder: Path) -> None:
    """As the processes of a job share it."""
    graph = folder / "net.fp32.onnx"
    left = without_corrupt(calibration_images(graph, str(folder / "whole")), 1)
    assert left.ids == calibration_images(graph, str(folder / "clean")).ids
    whole = collect.collect_ranges(graph, left, batch=3, threads=1)
    first, second = (
        collect.collect_ranges(graph, left.subset([k for k in range(21) if k // 3 % 2 == part]), batch=3, of=21)
        for part in (0, 1)
    )
    first.merge(second)
    assert first.images == whole.images == 21
    for name, one in whole.tensors.items():
        assert np.array_equal(first.tensors[name].positive, one.positive)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_quantize_refuses_or_leaves_out_and_counts(precision: Any, folder: Path, tmp_path: Path, capfd: Any) -> None:
    graph, made = folder / "net.fp32.onnx", tmp_path / "x.onnx"
    settings: dict[str, Any] = {"precision": precision} | ({"method": "minmax"} if precision == "int8" else {})
    with pytest.raises(DataError, match=r"a/2\.png: not a readable image"):
        quantize(graph, made, data=folder / "whole", **settings)
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    assert (
        main(["quantize", str(graph), "--data", str(folder / "whole"), "--skip-corrupt", *words, "-o", str(made)]) == 0
    )
    assert capfd.readouterr().err.count(SAID) == 1
    assert read_sidecar(made).facts["corrupt_calibration_images"] == 3
    quantize(graph, tmp_path / "clean.onnx", data=folder / "clean", **settings)
    assert made.read_bytes() == (tmp_path / "clean.onnx").read_bytes()


def test_the_check_of_images_leaves_them_out_too(folder: Path, capfd: Any) -> None:
    found = check_images(folder / "net.fp32.onnx", str(folder / "whole"), test=str(folder / "whole"), skip_corrupt=True)
    assert found.n == found.test_n == 21
    assert capfd.readouterr().err.count(SAID) == 2


def test_images_none_of_which_can_be_read_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        calibrate(folder / "net.fp32.onnx", tmp_path / "x.calib.json", data=tmp_path, skip_corrupt=True)
