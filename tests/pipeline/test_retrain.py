"""Finished weights are replaced when it is asked for, and not before the new ones are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.artifact.hold import held
from edgecnn.artifact.sidecar import read_sidecar, sha256_of, sidecar_path
from edgecnn.cli import main

pytestmark = pytest.mark.torch

CHECKPOINT = "model.safetensors"


def run(folder: Path, epochs: int, *more: str) -> int:
    settings = ["--set", f"train.epochs={epochs}", "--set", "train.batch=256", "--until", "train", "--threads", "1"]
    return main(["run", "lenet5-digits", "--out", str(folder), *settings, *more])


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.cpu_s(20)
def test_weights_are_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert run(folder, 1) == 0
    before = content(folder)
    capsys.readouterr()
    assert run(folder, 2) == 2
    err = capsys.readouterr().err
    assert f"{folder / CHECKPOINT}: train.epochs changed from 1 to 2; weights are not replaced unasked" in err
    assert "--retrain" in err
    assert run(folder, 2, "--dry-run") == 0
    assert "train.epochs changed from 1 to 2" in capsys.readouterr().out
    assert main(["train", "lenet5-digits", "--out", str(folder), "--set", "train.epochs=2"]) == 2
    assert content(folder) == before

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgecnn.pytorch.training.loop.TrainingRun.finish", killed)
        assert run(folder, 2, "--retrain") == 130
    assert not (folder / CHECKPOINT).exists()
    assert sha256_of(folder / f"{CHECKPOINT}.previous") == before[CHECKPOINT]
    capsys.readouterr()
    assert run(folder, 1) == 0
    assert "are taken back" in capsys.readouterr().err
    assert sha256_of(folder / CHECKPOINT) == before[CHECKPOINT]
    assert read_sidecar(folder / CHECKPOINT).fields["train.epochs"] == 1
    assert run(folder, 2, "--retrain") == 0
    assert read_sidecar(folder / CHECKPOINT).fields["train.epochs"] == 2
    assert list(folder.glob("*.previous*")) == []
    assert run(folder, 2, "--retrain") == 0, "what is fresh is not trained again"


def test_weights_without_a_sidecar_may_be_anybody_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"mine")
    assert run(tmp_path, 1) == 2
    assert "has no sidecar" in capsys.readouterr().err
    assert (tmp_path / CHECKPOINT).read_bytes() == b"mine"
    assert not sidecar_path(tmp_path / CHECKPOINT).exists()


def test_a_second_run_or_training_in_the_folder_is_told_who_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(tmp_path):
        for ask in (["run", "lenet5-digits"], ["train", "lenet5-digits"]):
            assert main([*ask, "--out", str(tmp_path)]) == 2
            assert f"{tmp_path}: another run is at work in it: process " in capsys.readouterr().err
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
