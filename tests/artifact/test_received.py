"""What came from another machine takes its place whole, wherever a process dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.artifact import received
from edgecnn.artifact.received import place_files, replace_folder, restore_folder
from edgecnn.artifact.sidecar import Sidecar, sidecar_path, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.errors import WriteError


def artifact(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    write_artifact(path, lambda p: p.write_bytes(content), Sidecar(kind="engine"))


def test_an_artifact_comes_with_its_sidecar_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, scratch = tmp_path / "here", tmp_path / "scratch"
    artifact(here / "x.plan", b"old")
    artifact(scratch / "x.plan", b"new")
    (scratch / "inner").mkdir()
    (scratch / "inner" / "latency.json").write_text("{}")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(received, "replace_pair", full)
        with pytest.raises(WriteError, match=r"x\.plan: cannot be written: No space left"):
            place_files(scratch, here)
    assert ((here / "x.plan").read_bytes(), verified_sidecar(here / "x.plan").kind) == (b"old", "engine")
    artifact(scratch / "x.plan", b"new")
    placed = place_files(scratch, here)
    assert placed == [here / "x.plan", sidecar_path(here / "x.plan")]
    assert (here / "inner" / "latency.json").exists(), "it came before"
    assert (here / "x.plan").read_bytes() == b"new"
    assert verified_sidecar(here / "x.plan").kind == "engine"
    assert sorted(p.name for p in here.iterdir()) == ["inner", "x.plan", "x.plan.json"]


@pytest.mark.parametrize("step", range(8))
def test_a_folder_is_the_old_one_or_the_new_one(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each renaming and each removal is the last one once."""
    folder, scratch = tmp_path / "a", tmp_path / "scratch"
    for path, content in ((folder, "old"), (scratch, "new")):
        path.mkdir()
        (path / "file").write_text(content)
    done = 0

    def dying(name: str, call: object) -> object:
        def called(*arguments: object, **options: object) -> object:
            nonlocal done
            done += 1
            if done > step:
                raise KeyboardInterrupt
            return call(*arguments, **options)  # type: ignore[operator]

        return called

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying("rename", Path.rename))
        patch.setattr(received.shutil, "rmtree", dying("rmtree", received.shutil.rmtree))
        patch.setattr(received, "sync_folder", dying("sync", received.sync_folder))
        try:
            replace_folder(scratch, folder)
        except KeyboardInterrupt:
            assert done == step + 1
        else:
            assert done <= step
    restore_folder(folder)
    assert (folder / "file").read_text() == ("old" if scratch.exists() else "new")
    assert step < 7 or not scratch.exists()
    if scratch.exists():
        replace_folder(scratch, folder)
    assert (folder / "file").read_text() == "new"
