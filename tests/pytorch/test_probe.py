"""Linear probes: what they find where there is something to find, and nothing where there is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edgecnn.errors import DataError

if TYPE_CHECKING:  # imported before the first test of this file
    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.probe import DECAYS, TOGETHER, probe
    from edgecnn.pytorch.training.transfer import stage_names

pytestmark = pytest.mark.torch


@pytest.fixture
def two_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least and the largest: each costs five fits for every stage."""
    monkeypatch.setattr("edgecnn.pytorch.probe.DECAYS", (DECAYS[0], DECAYS[-1]))


def folder(root: Path, learnable: bool, per_class: int = 60) -> Path:
    """Two classes of noise; learnable ones differ in how fine it is."""
    random = np.random.default_rng(1)
    for split in ("train", "val"):
        for k, name in enumerate(("coarse", "fine")):
            (root / split / name).mkdir(parents=True)
            for n in range(per_class):
                size = 32 if learnable and k else 8
                image = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
                image.resize((32, 32), Image.Resampling.BICUBIC).save(root / split / name / f"{n}.png")
    return root


@pytest.mark.usefixtures("two_decays")
def test_every_stage_is_probed_and_the_difference_is_found(tmp_path: Path) -> None:
    rows = probe("resnet20_cifar", str(folder(tmp_path, learnable=True)), "none")
    assert [r.name for r in rows] == [*stage_names(build_model("resnet20_cifar")), TOGETHER]
    assert [r.features for r in rows] == [16, 16, 16, 32, 64, 144]
    assert all(r.n == r.test_n == 120 for r in rows)
    for row in rows[2:]:
        assert row.validation_top1_pct > 95
        assert row.top1_pct is not None
        assert row.top1_pct > 95


@pytest.mark.usefixtures("two_decays")
def test_where_there_is_nothing_to_learn_it_says_chance(tmp_path: Path) -> None:
    rows = probe("resnet20_cifar", str(folder(tmp_path, learnable=False)), "none", images=100)
    for row in rows:
        assert row.n == 100
        assert 30 < row.validation_top1_pct < 70  # cross-validated: fitting the training images would give 100
        assert row.top1_pct is not None
        assert 30 < row.top1_pct < 70


def test_one_class_cannot_be_probed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "one" / "0.png")
    with pytest.raises(DataError, match="at least two classes"):
        probe("resnet20_cifar", str(tmp_path), "none")
