"""Artifacts: atomic writing, sidecars, staleness."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import (
    Sidecar,
    parents_of,
    read_json,
    read_sidecar,
    sha256_of,
    sidecar_path,
    verified_sidecar,
)
from edgecnn.artifact.stale import stale_reason
from edgecnn.artifact.write import atomic_path, check_output, write_artifact, write_json_artifact
from edgecnn.errors import ArtifactError, WriteError
from edgecnn.results.device import Device

NOBODY = 65534


def make(path: Path, content: bytes = b"one", **changes: object) -> Sidecar:
    sidecar = dataclasses.replace(Sidecar(kind="graph", fields={"batch.max": 8}), **changes)  # type: ignore[arg-type]
    return write_artifact(path, lambda temporary: temporary.write_bytes(content) and None, sidecar)


def test_the_sidecar_describes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "model.onnx"
    written = make(path)
    assert path.read_bytes() == b"one"
    assert verified_sidecar(path) == written
    assert written.sha256 == sha256_of(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.onnx", "model.onnx.json"]


def test_a_failed_write_leaves_the_previous_artifact(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make(path)

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match="No space left"):
        write_artifact(path, fail, Sidecar(kind="graph"))
    assert verified_sidecar(path).fields == {"batch.max": 8}
    assert len(list(tmp_path.iterdir())) == 2, "no temporary file stays"


def test_a_full_disk_is_an_error_that_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    with pytest.raises(WriteError), atomic_path(path) as temporary, Path("/dev/full").open("wb", buffering=0) as full:
        temporary.write_bytes(b"half")
        full.write(b"x")
    assert path.read_bytes() == b"one"


def test_a_killed_writer_leaves_no_half_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    script = f"""
        import os, signal, pathlib
        from edgecnn.artifact.sidecar import Sidecar
        from edgecnn.artifact.write import write_artifact
        def write(temporary):
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write_artifact(pathlib.Path({str(path)!r}), write, Sidecar(kind="graph"))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"one"
    assert verified_sidecar(path).kind == "graph"


@contextlib.contextmanager
def without_roots_rights() -> Iterator[None]:
    """Root may write anywhere; here it is nobody for a while."""
    real, effective, saved = os.getresuid()
    if effective == 0:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(real, effective, saved)


def test_a_folder_without_permission() -> None:
    """In a temporary folder that everybody may enter, as pytest's own is not; beside it one that takes the file."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for folder, mode in (("open", 0o777), ("shut", 0o555)):
            (Path(name) / folder).mkdir()
            (Path(name) / folder).chmod(mode)
        with without_roots_rights():
            make(Path(name) / "open" / "model.onnx")
            with pytest.raises(WriteError, match="Permission denied"):
                make(Path(name) / "shut" / "model.onnx")
            with pytest.raises(WriteError, match="shut is not writable"):
                check_output(Path(name) / "shut" / "model.onnx", ".onnx")
        assert not list((Path(name) / "shut").iterdir())


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="model.onnx"):
        make(tmp_path / "file" / "model.onnx")


def test_a_changed_file_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    make(path)
    path.write_bytes(b"two")
    with pytest.raises(ArtifactError, match="sha256"):
        verified_sidecar(path)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"kind": "graph"}', '{"kind": "x", "schema": 1, "other": 2}'])
def test_a_damaged_sidecar_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    sidecar_path(path).write_text(damage)
    with pytest.raises(ArtifactError, match=r"model\.onnx\.json"):
        read_sidecar(path)


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(Sidecar)])
def test_a_value_of_another_type_is_damage_and_no_bug(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.bin"
    make(path)
    where = path.with_name("a.bin.json")
    where.write_text(json.dumps(json.loads(where.read_text()) | {key: 1.5}))
    with pytest.raises(ArtifactError, match=key):
        read_sidecar(path)


def test_a_json_artifact_carries_its_provenance(tmp_path: Path) -> None:
    path = tmp_path / "accuracy.json"
    write_json_artifact(path, {"n": 3}, Sidecar(kind="accuracy"))
    assert read_sidecar(path).kind == "accuracy"
    assert json.loads(path.read_text())["n"] == 3


def test_fresh_and_stale(tmp_path: Path) -> None:
    parent, path = tmp_path / "parent", tmp_path / "model.onnx"
    parent.write_bytes(b"p")
    now = Sidecar(kind="graph", fields={"batch.max": 8}, tools={"onnx": "1"}, device=Device(cpu="a", threads=2))
    make(path, parents=parents_of(path, parent), tools=now.tools, device=now.device)
    assert stale_reason(path, now, [parent]) is None

    def reason(**changes: object) -> str:
        return stale_reason(path, dataclasses.replace(now, **changes), [parent]) or ""  # type: ignore[arg-type]

    assert reason(fields={"batch.max": 4}) == "batch.max changed from 8 to 4"
    assert reason(fields={"batch.max": 8, "train.epochs": 1}) == ("it does not say with which train.epochs it was made")
    assert reason(edgecnn="9.9") == f"made by edgecnn {now.edgecnn}, this is 9.9"
    assert reason(tools={"onnx": "2"}) == "onnx was 1, here it is 2"
    assert "made on cpu a" in reason(device=Device(cpu="b", threads=2))
    assert stale_reason(path, now, []) == "made from parent, not nothing"
    parent.write_bytes(b"q")
    assert reason() == "parent changed"
    parent.unlink()
    assert reason() == "", "a parent that is not on this machine is taken as unchanged"
    path.write_bytes(b"tampered")
    assert "sha256" in reason()
    path.unlink()
    assert reason() == "not made yet"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' stands twice"),
        ('{"a": [{"b": 1, "c": 2, "b": 3}]}', "the key 'b' stands twice"),
        ('{"a": ' * 100_000, "nested too deep"),
    ],
)
def test_json_that_means_nothing_or_two_things_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ArtifactError, match=words):
        read_json(tmp_path / "a.json")
