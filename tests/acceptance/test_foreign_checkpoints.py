"""Checkpoints as other people's scripts and other people's malice write them, through the command line."""

from __future__ import annotations

import datetime
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.cli.conftest import Result

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

pytestmark = pytest.mark.torch

Export = Callable[..., Result]
CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x):
        return self.net(x)
"""
KEYS = {"net.0.weight": (4, 1, 3, 3), "net.0.bias": (4,), "net.4.weight": (3, 4), "net.4.bias": (3,)}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {key: torch.from_numpy(rng.normal(0, 1, shape).astype(np.float32)) for key, shape in KEYS.items()}


@pytest.fixture
def export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Export:
    """Save `content` (bytes as they are) and export the network with it; proves the weights of what was made."""
    from edgecnn.cli import main

    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "pre.json").write_text('{"resize": 8, "crop": 8, "mean": [0.3], "std": [0.35], "channels": 1}')

    def call(content: Any, *more: str) -> Result:
        checkpoint, made = tmp_path / "last.pth", tmp_path / "made.onnx"
        if isinstance(content, bytes):
            checkpoint.write_bytes(content)
        else:
            torch.save(content, checkpoint)
        made.unlink(missing_ok=True)
        capfd.readouterr()
        how = ["--trust-code", "--preprocess", str(tmp_path / "pre.json"), "--checkpoint", str(checkpoint), *more]
        code = main(["export", f"{tmp_path / 'net.py'}:Net", *how, "-o", str(made)])
        captured = capfd.readouterr()
        assert made.exists() == (code == 0)
        if code == 0:
            found = [numpy_helper.to_array(t) for t in onnx.load(made).graph.initializer]
            assert any(np.array_equal(w, weights()["net.0.weight"].numpy()) for w in found)
        return Result(code, captured.out, captured.err)

    return call


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("net.0.", "net.0._orig_mod."),
        ("net.4.", "net.4.module."),
        ("net.", "_fsdp_wrapped_module.net._fsdp_wrapped_module."),
        ("net.0.", "module.net.0._checkpoint_wrapped_module."),
    ],
)
def test_wrappers_around_modules_inside_the_network(export: Export, old: str, new: str) -> None:
    front = new.partition("net.")[0]
    done = export({k.replace(old, new) if k.startswith(old) else front + k: v for k, v in weights().items()})
    assert done.code == 0, done.err
    assert "wrappers inside its keys" in done.err + done.out


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
def test_a_network_that_wraps_what_was_trained(export: Export, prefix: str) -> None:
    done = export({"state_dict": {prefix + k.removeprefix("net."): v for k, v in weights().items()}})
    assert done.code == 0, done.err
    assert "the network's 'net.'" in done.err + done.out


def test_the_average_of_a_compiled_layer(export: Export) -> None:
    average = {f"module.{k.replace('net.0.', 'net.0._orig_mod.')}": v for k, v in weights().items()}
    plain = {k: v + 1 for k, v in weights().items()}
    done = export({"model": plain, "averaged": {**average, "n_averaged": torch.tensor(3)}}, "--ema")
    assert done.code == 0, done.err
    assert "average over the training" in done.err + done.out


def test_what_accompanies_weights(export: Export) -> None:
    assert export({"model": weights(), "day": datetime.date(2024, 1, 1), "best": np.float32(0.9)}).code == 0


def test_a_name_in_a_file_cannot_forge_a_line(export: Export) -> None:
    said = export({**weights(), "\x1b[31m\nerror: all is well\nhint: go on": torch.ones(2)}).refused()
    assert "\x1b" not in said
    assert len(export({**weights(), "k" * 500_000: torch.ones(2)}).refused()) < 1000  # in no time
    assert export({**weights(), "\ud800.criterion.weight": torch.ones(2)}).code == 0


def test_an_archive_that_explodes_is_not_unpacked(export: Export) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"0" * 20_000_000 + b".")
        archive.writestr("archive/version", "3\n")
    assert "unpacks to 20 MB" in export(made.getvalue()).refused()


class Command:
    """What runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_nothing_in_a_file_is_run(export: Export, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    assert "it was not run" in export({"model": weights(), "x": Command(f"touch {ran}")}).refused()
    assert not ran.exists()


@pytest.mark.parametrize("cut", [0, 1, 40, 300, -200, -1])
def test_half_a_file(export: Export, cut: int) -> None:
    whole = io.BytesIO()
    torch.save(weights(), whole)
    export(whole.getvalue()[:cut]).refused()
