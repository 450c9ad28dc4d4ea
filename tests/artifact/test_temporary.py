"""Folders that many make at once in one place: none is taken for a dead process's before it is held."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.temporary import temporary_folder
from edgecnn.artifact.write import write_artifact


def test_nobody_removes_what_another_is_making(tmp_path: Path) -> None:
    def make(number: int) -> bool:
        with temporary_folder(tmp_path / "x") as folder:
            (folder / "a").write_text(str(number))
            return (folder / "a").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(make, range(1500)))
    assert list(tmp_path.iterdir()) == []


def test_a_pair_in_a_temporary_folder_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's own maker holds it: a bundle waited ten seconds for itself."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    with temporary_folder(tmp_path / "x") as folder:
        write_artifact(folder / "a.bin", lambda temporary: temporary.write_bytes(b"a"), Sidecar(kind="onnx"))
        assert (folder / "a.bin").read_bytes() == b"a"
