"""A network of one's own at the command line: what is refused, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.cpu_s(30)]  # whole flows, with PyTorch in two processes

Call = Callable[..., Any]
NET = """from pathlib import Path
from torch import nn

Path("ran").touch()


def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""
RECIPE = '[model]\npython = "net.py:make"\n[input]\nsize = 8\nmean = [0.3]\nstd = [0.35]\n[data]\nsource = "digits"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with net.py, its recipe and its preprocessing."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("mine.toml").write_text(RECIPE)
    Path("pre.json").write_text('{"resize": 8, "crop": 8, "mean": [0.3], "std": [0.35], "channels": 1}')
    return tmp_path


@pytest.mark.parametrize(
    "call",
    [
        ("run", "mine.toml"),
        ("export", "net.py:make", "--preprocess", "pre.json"),
        ("reference", "net.py:make", "--preprocess", "pre.json", "--data", "digits"),
    ],
    ids=lambda call: call[0],
)
def test_code_is_not_run_unasked(call: tuple[str, ...], edgecnn: Call) -> None:
    said = edgecnn(*call).refused()
    assert "net.py:make" in said
    assert "--trust-code" in said
    assert not Path("ran").exists()


def test_a_recipe_is_checked_without_running_its_code(edgecnn: Call) -> None:
    assert edgecnn("recipe", "check", "mine.toml").code == 0
    Path("mine.toml").write_text(RECIPE.replace(":make", ":mak"))
    assert "did you mean 'make'?" in edgecnn("recipe", "check", "mine.toml").refused()
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def make(): raise OSError('net.pth is not here')", "raised OSError: net.pth is not here (line 1)"),
        ("def make(classes): ...", "needs arguments (classes)"),
        ("def make(): return 3", "returns a int, not a torch.nn.Module"),
        ("def other(): ...", "has no function 'make'"),
    ],
)
def test_a_factory_that_gives_no_network(code: str, words: str, edgecnn: Call) -> None:
    Path("net.py").write_text(code)
    assert words in edgecnn("run", "mine.toml", "--trust-code").refused()
    assert words in edgecnn("export", "net.py:make", "--trust-code", "--preprocess", "pre.json").refused()


def test_export_says_what_it_made(edgecnn: Call) -> None:
    done = edgecnn("export", "net.py:make", "--trust-code", "--preprocess", "pre.json", "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert (row["name"], row["classes"], row["input_shape"], row["path"]) == (
        "net.py:make",
        10,
        [1, 8, 8],
        "net.fp32.onnx",
    )
