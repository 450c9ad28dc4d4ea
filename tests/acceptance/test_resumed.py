"""A killed validation or calibration, taken up after images were replaced by others of the same name, size and
times."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import edgecnn as ec
from tests.acceptance.channel_pictures import (
    PREPROCESSING,
    RED,
    SIDE,
    class_model,
    level,
    write_json,
)

pytestmark = pytest.mark.torch

COUNT = 40


def paint(path: Path, red: int) -> None:
    """A picture of one color, uncompressed, with the times that the file had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat() if path.exists() else None
    Image.new("RGB", (SIDE, SIDE), (red, 0, 0)).save(path)
    if before is not None:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def picture(folder: Path, k: int) -> Path:
    return folder / f"c{k % 4}" / f"{k:02d}.bmp"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(class_model(4, RED), tmp_path / "theirs.onnx")
    preprocess = write_json(tmp_path / "pre.json", PREPROCESSING)
    labels = tmp_path / "labels.txt"
    labels.write_text("c0\nc1\nc2\nc3\n")
    return ec.import_onnx(tmp_path / "theirs.onnx", tmp_path / "red.onnx", preprocess=preprocess, labels=labels)


def stop(done: int, total: int) -> None:
    if done >= total - 10:
        raise KeyboardInterrupt


def test_no_row_of_a_validation_is_of_an_image_that_was_there_before(tmp_path: Path, graph: Path) -> None:
    """The reference is of the images of before: as in a run that was never killed, that is refused and not passed."""
    images, output, reference = tmp_path / "images", tmp_path / "a.json", tmp_path / "r.npz"
    for k in range(COUNT):
        paint(picture(images, k), level(k % 4, 4))
    ec.reference(graph, reference, data=images)
    with pytest.raises(KeyboardInterrupt):
        ec.validate(graph, reference, output, data=images, batch=5, progress=stop)
    for k in range(2, COUNT, 4):
        paint(picture(images, k), level((k + 1) % 4, 4))
    for again in (output, None):
        with pytest.raises(ec.MeasurementError, match="is not the one that the reference was made on"):
            ec.validate(graph, reference, again, data=images, batch=5)


def test_no_range_is_of_an_image_that_was_there_before(tmp_path: Path, graph: Path) -> None:
    images = tmp_path / "images"
    rng = np.random.default_rng(0)
    for k in range(600):
        paint(picture(images / "train", k), int(rng.integers(20, 230)))
    output, ask = tmp_path / "m.calib.json", {"data": images, "images": 600, "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        ec.calibrate(graph, output, progress=stop, **ask)  # type: ignore[arg-type]
    assert list(tmp_path.glob(".m.calib.json*"))
    paint(picture(images / "train", 7), 255)
    made = [ec.calibrate(graph, path, **ask) for path in (output, tmp_path / "n.calib.json")]  # type: ignore[arg-type]
    one, two = (json.loads(path.read_text()) for path in made)
    assert one["tensors"] == two["tensors"]
    assert one["data_sha256"] == two["data_sha256"]
