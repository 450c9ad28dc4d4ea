"""Training on a GPU: AMP, channels_last, resuming, and the checkpoint's way back to a CPU. Needs CUDA, not TensorRT.

The loss scaler of fp16 works on a CPU too: that part runs everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecnn.data.dataset import batches
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.pytorch.training.progress import Epoch, Silent
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe
from edgecnn.zoo import find_model

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch.reference import open_reference
    from edgecnn.pytorch.training import loop as training

pytestmark = pytest.mark.torch


class Stop(Silent):
    def epoch(self, epoch: Epoch) -> None:
        if epoch.epoch == 1:
            raise KeyboardInterrupt


def recipe(*settings: str) -> Recipe:
    return load_recipe("lenet5-digits", ["train.epochs=3", "train.clip_norm=1.0", "train.ema=0.9", *settings])


@pytest.fixture
def gpu() -> None:
    if torch.cuda.is_available():
        return
    pytest.skip("PyTorch sees no GPU")


@pytest.mark.cpu_s(30)
def test_the_loss_scaler_is_resumed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "training_device", lambda settings, local_rank=0: torch.device("cpu"))
    half = recipe('train.amp="fp16"', "train.epochs=2")
    whole = training.train(half, tmp_path / "whole", threads=1)
    assert whole.top1_pct is not None
    assert whole.top1_pct > 60
    with pytest.raises(KeyboardInterrupt):
        training.train(half, tmp_path / "killed", threads=1, progress=Stop())
    resumed = training.train(half, tmp_path / "killed", threads=1, resume=True)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    state = torch.load(tmp_path / "killed" / "training-state.pt", weights_only=True)
    assert state["scaler"]["scale"] > 0


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_training_on_a_gpu_learns_resumes_and_gives_a_checkpoint_for_any_machine(tmp_path: Path, amp: str) -> None:
    settings = recipe(f'train.amp="{amp}"', "train.channels_last=true", 'train.device="cuda"', "train.mixup=0.1")
    with pytest.raises(KeyboardInterrupt):
        training.train(settings, tmp_path, progress=Stop())
    result = training.train(settings, tmp_path, resume=True)
    assert result.top1_pct is not None
    assert result.top1_pct > 60
    test = open_dataset("digits", preprocessing_from_json(find_model("lenet5").preprocessing), "test")
    with open_reference(result.checkpoint) as session:
        hits = np.concatenate([session.run(b.input).argmax(1) == b.label for b in batches(test, 100)])
    assert 100 * hits.mean() == pytest.approx(result.top1_pct, abs=1.0)  # AMP rounds
