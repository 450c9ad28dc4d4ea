"""Writing: an artifact and its sidecar, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.pair import next_folder, replace_json, replace_pair, sync_file
from edgecnn.artifact.sidecar import Sidecar, sha256_of, sidecar_path
from edgecnn.artifact.signature import signature_path
from edgecnn.artifact.temporary import refused, temporary_file
from edgecnn.errors import WriteError
from edgecnn.records import to_plain


@contextlib.contextmanager
def atomic_path(path: Path, size: int = 0) -> Iterator[Path]:
    """A temporary file beside `path` to write to, of `size` bytes where that is known; renamed to `path` when it is
    whole on disk, removed on any failure. Raises `WriteError` when the folder or the disk refuses."""
    with _whole_file(path, size) as temporary:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)


@contextlib.contextmanager
def _whole_file(path: Path, size: int) -> Iterator[Path]:
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as temporary:
            try:
                yield temporary
            except OSError:
                with contextlib.suppress(OSError):
                    written = temporary.stat().st_size
                raise
    except OSError as exc:
        raise refused(path, exc, size, written) from exc


def check_output(path: Path, suffix: str, *inputs: Path | None, option: str = "-o") -> None:
    """Refuse an output before the work for it is done: one that is read from, is a folder, lies where nothing may be
    written, or does not end in `suffix`, by which later steps know it. Raises `WriteError`."""
    for source in inputs:
        if source is not None and path.resolve() in (source.resolve(), sidecar_path(source).resolve()):
            what = "it is read from" if path.resolve() == source.resolve() else f"it is the sidecar of {source}"
            raise WriteError(f"{path}: would be overwritten: {what}", f"choose another file with {option}")
    if path.is_dir():
        raise WriteError(f"{path}: cannot be written: it is a folder", f"name a file in it with {option}")
    if path.suffix != suffix:
        raise WriteError(f"{path}: does not end in {suffix}", f"name it, for example, {path.stem}{suffix}")
    require_writable(path.parent, path, option)


def require_writable(folder: Path, path: Path | None = None, option: str = "--out") -> None:
    """Raise `WriteError` where a folder (or where it is to be made) takes no file, such as `path`."""
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise WriteError(
            f"{path or folder}: cannot be written: {there} is {'not writable' if there.is_dir() else 'not a folder'}",
            f"choose a folder that you may write to with {option}",
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, atomically."""
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_artifact(path: Path, write: Callable[[Path], object], sidecar: Sidecar, size: int = 0) -> Sidecar:
    """Make the artifact `path` by `write(temporary_path)`, of `size` bytes where that is known, with its sidecar;
    returns the sidecar as written. Both are whole on disk before either replaces an old one, and whatever else `write`
    puts beside `temporary_path`."""
    with _whole_file(path, size) as temporary:
        write(temporary)
        done = dataclasses.replace(sidecar, sha256=sha256_of(temporary, graph=path.suffix == ".onnx"), created=_now())
        replace_pair(temporary, _dump(to_plain(done)), path)
    return done


def write_json_artifact(path: Path, content: Mapping[str, Any], provenance: Sidecar) -> None:
    """Write an artifact that is JSON itself: `content` with the sidecar's facts under `provenance`."""
    done = dataclasses.replace(provenance, created=_now())
    dumped = _dump({**content, "provenance": to_plain(done)})
    if not signature_path(path).exists() and not next_folder(path).exists():
        write_bytes(path, dumped)
        return
    with _whole_file(path, len(dumped)) as temporary:
        temporary.write_bytes(dumped)
        replace_json(temporary, path)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
