"""Whatever is killed or fails in between: the old artifact with the old sidecar, or the new one with the new one."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecnn.artifact.pair import move_pair
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path, verified_sidecar
from edgecnn.artifact.temporary import temporary_folder
from edgecnn.artifact.write import atomic_path, write_artifact, write_bytes
from edgecnn.errors import WriteError
from tests.fakes.faulty_disk import every_fault, faulty


def make(path: Path, content: bytes) -> Sidecar:
    sidecar = Sidecar(kind="graph", fields={"content": content.decode()})
    return write_artifact(path, lambda temporary: temporary.write_bytes(content), sidecar)


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def found(path: Path) -> str:
    """The content that both files of the pair tell, once somebody has looked."""
    told: str = verified_sidecar(path).fields["content"]
    assert path.read_bytes() == told.encode()
    return told


def only_the_pair(path: Path) -> bool:
    return {p.name for p in path.parent.iterdir()} == {path.name, f"{path.name}.json"}


def test_the_old_pair_or_the_new_one_after_any_fault(tmp_path: Path) -> None:
    path, told = tmp_path / "model.onnx", list[str]()

    def prepare() -> None:
        emptied(tmp_path)
        make(path, b"old")

    for disk, raised in every_fault(tmp_path, prepare, lambda: make(path, b"new")):
        assert disk.hit()
        assert raised is None or isinstance(raised, WriteError), raised
        told.append(found(path))
        if raised is None and disk.fault == "fails":
            assert told[-1] == "new"
        make(path, b"next")
        assert found(path) == "next"
        assert only_the_pair(path), disk
    assert set(told) == {"old", "new"}
    assert len(told) >= 16


def test_both_are_on_disk_before_either_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make(path, b"old")
    with faulty(tmp_path) as disk:
        make(path, b"new")
    replaced = [k for k, what in enumerate(disk.seen) if what.startswith("rename") and what.split()[-1] in
                ("model.onnx", "model.onnx.json")]  # fmt: skip
    synced = [what for what in disk.seen[: min(replaced)] if what.startswith("fsync")]
    assert len(replaced) == 2
    assert len(synced) == 4, "the artifact, the sidecar, their names, and the name of their folder"


def test_what_is_written_beside_the_artifact_goes_along(tmp_path: Path) -> None:
    """A graph keeps its weights in files of their own."""
    path = tmp_path / "model.onnx"

    def make_three(content: bytes) -> None:
        def write(temporary: Path) -> None:
            (temporary.parent / "sub").mkdir()
            for file in (temporary, temporary.parent / "model.data", temporary.parent / "sub" / "more"):
                file.write_bytes(content)

        write_artifact(path, write, Sidecar(kind="graph", fields={"content": content.decode()}))

    def prepare() -> None:
        emptied(tmp_path)
        make_three(b"old")

    for disk, _ in every_fault(tmp_path, prepare, lambda: make_three(b"new")):
        told = found(path).encode()
        assert [(tmp_path / name).read_bytes() for name in ("model.data", "sub/more")] == [told, told], disk
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.data", "model.onnx", "model.onnx.json", "sub"]


def test_none_or_the_new_pair_where_there_was_none(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for disk, _ in every_fault(tmp_path, lambda: emptied(tmp_path), lambda: make(path, b"new")):
        if path.exists():
            assert found(path) == "new", disk
        make(path, b"next")
        assert found(path) == "next"
        assert only_the_pair(path), disk


def test_one_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "report.md"

    def prepare() -> None:
        emptied(tmp_path)
        write_bytes(path, b"old")

    for disk, _ in every_fault(tmp_path, prepare, lambda: write_bytes(path, b"new")):
        assert path.read_bytes() in (b"old", b"new"), disk
        write_bytes(path, b"next")
        assert [p.name for p in tmp_path.iterdir()] == ["report.md"]


@pytest.mark.parametrize("links", [True, False])
def test_a_pair_that_moves_is_at_its_old_place_or_its_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Weights that were trained for days are moved aside."""
    before, after = tmp_path / "model.safetensors", tmp_path / "model.safetensors.previous"

    def no_links(*unused: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", no_links)

    def prepare() -> None:
        emptied(tmp_path)
        make(after, b"older")
        make(before, b"old")

    for disk, raised in every_fault(tmp_path, prepare, lambda: move_pair(before, after)):
        assert raised is None or isinstance(raised, WriteError), raised
        told = [found(path) for path in (before, after) if path.exists() and sidecar_path(path).exists()]
        assert "old" in told, disk
        if before.exists():
            assert sidecar_path(before).exists()


def test_what_dead_processes_left_goes_at_the_next_write_and_what_lives_stays(tmp_path: Path, root: Path) -> None:
    program = """
        import pathlib, sys
        from edgecnn.artifact.write import atomic_path
        from edgecnn.artifact.temporary import temporary_folder
        with atomic_path(pathlib.Path(sys.argv[1])) as temporary, temporary_folder(pathlib.Path(sys.argv[2])) as folder:
            temporary.write_bytes(b"half")
            (folder / "part").write_bytes(b"half")
            print("there", flush=True)
            sys.stdin.read()
    """
    path, folder = tmp_path / "model.onnx", tmp_path / "out.repro"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(path), str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    foreign = tmp_path / ".syncthing.model.onnx.tmp"
    foreign.write_bytes(b"another program's")
    write_bytes(tmp_path / "a", b"")
    living = [p for p in tmp_path.iterdir() if p.name.endswith(".tmp") and p != foreign]
    assert len(living) == 2, "what is written to at this moment stays"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert all(p.exists() for p in living)
    write_bytes(tmp_path / "a", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == [foreign.name, "a"]


def test_a_file_system_without_locks_takes_files_and_keeps_what_may_be_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*unused: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with atomic_path(tmp_path / "one") as temporary:
        make(tmp_path / "model.onnx", b"new")
        temporary.write_bytes(b"still there")
    assert found(tmp_path / "model.onnx") == "new"


def test_writers_of_one_artifact_at_once_leave_a_pair(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"

    def write(name: str) -> None:
        for k in range(40):
            make(path, f"{name}{k}".encode())

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found(path)
    assert only_the_pair(path)


def test_a_library_that_replaces_the_file_changes_neither_its_rights_nor_its_life(tmp_path: Path) -> None:
    """As safetensors does: what it renames is a new file, for its user alone."""
    path = tmp_path / "model.safetensors"

    def write(temporary: Path) -> None:
        other = temporary.with_name("other")
        os.close(os.open(other, os.O_WRONLY | os.O_CREAT, 0o600))
        other.replace(temporary)
        write_bytes(tmp_path / "another", b"")  # what is left by dead processes goes at this moment

    write_artifact(path, write, Sidecar(kind="checkpoint"))
    assert verified_sidecar(path).kind == "checkpoint"
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_folder_is_whole_or_gone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), temporary_folder(tmp_path / "out") as made:
        (made / "part").write_bytes(b"x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


FULL: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: write_bytes(path, bytes(300_000)),
    "artifact": lambda path: write_artifact(path, lambda t: t.write_bytes(bytes(300_000)), Sidecar(kind="graph")),
    "told": lambda path: write_artifact(path, lambda t: t.write_bytes(bytes(300_000)), Sidecar(kind="graph"), 300_000),
}


@pytest.mark.parametrize("way", FULL)
def test_a_full_disk_says_which_file_and_how_much_was_needed_and_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = tmp_path / "model.onnx"
    make(path, b"old")

    def full(self: Path, content: bytes) -> None:
        with self.open("wb") as file:
            file.write(content[:100_000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError) as told:
        FULL[way](path)
    needed = "more than 100.0 kB needed" if way == "artifact" else "300.0 kB needed"
    assert told.value.message.startswith(f"{path}: cannot be written: No space left on device: {needed}, ")
    assert told.value.message.endswith(" MB free")
    monkeypatch.undo()
    assert found(path) == "old"
    assert only_the_pair(path)


def test_a_full_disk_at_the_sidecar_names_the_sidecar(tmp_path: Path) -> None:
    """The limit on the size of a file is one that no library's own writing escapes."""
    import resource

    path = tmp_path / "model.onnx"
    make(path, b"old")
    sidecar = Sidecar(kind="graph", fields={"content": "x" * 5000})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(WriteError, match=r"model\.onnx\.json: cannot be written: File too large: 5\.\d kB needed"):
            write_artifact(path, lambda temporary: temporary.write_bytes(b"new"), sidecar)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found(path) == "old"


def test_reading_completes_what_was_left(tmp_path: Path) -> None:
    """In a folder that nobody may write to it cannot, and the hash tells."""
    path, states = tmp_path / "model.onnx", list[int]()

    def prepare() -> None:
        emptied(tmp_path)
        make(path, b"old")

    for disk, _ in every_fault(tmp_path, prepare, lambda: make(path, b"new")):
        if disk.fault == "dies" and any(p.name.endswith("-next") for p in tmp_path.iterdir()):
            told = read_sidecar(path)
            assert dataclasses.replace(told).fields["content"].encode() == path.read_bytes()
            states.append(disk.at)
    assert len(states) >= 3
