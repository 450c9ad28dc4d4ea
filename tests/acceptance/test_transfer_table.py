"""Finetune or not, and how much: one table on one split, whatever folder, images and networks it is asked of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    import torch

    from edgecnn.pytorch.models import build_model
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.torch
Command = Callable[..., "Result"]
QUICK = ["--model", "lenet5", "--set", "train.epochs=1", "--set", "quantize.method=minmax", "--threads", "1"]


def write_images(folder: Path, seed: int) -> Path:
    """Two classes of noise, coarse and fine."""
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        for size, name in ((4, "coarse"), (32, "fine")):
            (folder / split / name).mkdir(parents=True)
            for k in range(6):
                image = Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8))
                image.resize((32, 32), Image.Resampling.NEAREST).save(folder / split / name / f"{k}.png")
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """Weights of ten classes."""
    torch.manual_seed(0)
    torch.save(build_model("lenet5").state_dict(), tmp_path / "start.pth")
    return tmp_path / "start.pth"


@pytest.fixture(autouse=True)
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.pytorch.probe.DECAYS", (0.01,))
    monkeypatch.setattr("edgecnn.pytorch.probe.FOLDS", 2)


def test_what_cannot_be_trained_is_told_before_classifiers_are_fitted(
    edgecnn: Command, start: Path, tmp_path: Path
) -> None:
    images, out = write_images(tmp_path / "imgs", 1), tmp_path / "table"
    said = edgecnn("transfer-table", images, *QUICK, "--weights", start, "--set", "train.batch=13", "-o", out)
    said.refused("12 training images make no batch of 13", "train.batch to at most 12")
    assert "linear classifier" not in said.said
    assert not (out / "transfer-table.json").exists()


def test_a_folder_inside_the_images_is_refused(edgecnn: Command, start: Path, tmp_path: Path) -> None:
    """Its runs would be classes of the next call."""
    images = write_images(tmp_path / "imgs", 1)
    before = sorted(images.rglob("*"))
    for inside in (images, images / "val", images / "train" / "fine" / "table"):
        said = edgecnn("transfer-table", images, *QUICK, "--weights", start, "--set", "train.batch=4", "-o", inside)
        said.refused("--out", str(inside))
        assert sorted(images.rglob("*")) == before
