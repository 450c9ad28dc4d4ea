"""Folders that many make at once in one place: none is taken for a dead process's before it is held."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgecnn.artifact.temporary import temporary_folder


def test_nobody_removes_what_another_is_making(tmp_path: Path) -> None:
    def make(number: int) -> bool:
        with temporary_folder(tmp_path / "x") as folder:
            (folder / "a").write_text(str(number))
            return (folder / "a").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(make, range(1500)))
    assert list(tmp_path.iterdir()) == []
