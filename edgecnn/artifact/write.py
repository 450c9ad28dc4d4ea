"""Writing: an artifact and its sidecar, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, sha256_of, sidecar_path
from edgecnn.artifact.signature import signature_path
from edgecnn.errors import WriteError
from edgecnn.records import to_plain


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; flushed and renamed to `path` on success, removed on any failure.

    Raises `WriteError` when the folder or the disk refuses.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
        temporary = None
    except OSError as exc:
        raise WriteError(
            f"{path}: cannot be written: {exc.strerror or exc}",
            "free some space, or choose a folder that you may write to with --out or -o",
        ) from exc
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
    folder = next(f for f in path.absolute().parents if f.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise WriteError(
            f"{path}: cannot be written: {folder} is {'not writable' if folder.is_dir() else 'not a folder'}",
            f"choose a folder that you may write to with {option}",
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_artifact(path: Path, write: Callable[[Path], object], sidecar: Sidecar) -> Sidecar:
    """Make the artifact `path` by `write(temporary_path)`, with its sidecar; returns the sidecar as written.

    The old sidecar goes first and the new one comes last, so that a sidecar never stands beside a file it does not
    describe.
    """
    with atomic_path(path) as temporary:
        write(temporary)
        done = dataclasses.replace(sidecar, sha256=sha256_of(temporary, graph=path.suffix == ".onnx"), created=_now())
        sidecar_path(path).unlink(missing_ok=True)
        signature_path(sidecar_path(path)).unlink(missing_ok=True)
    write_bytes(sidecar_path(path), _dump(to_plain(done)))
    return done


def write_json_artifact(path: Path, content: Mapping[str, Any], provenance: Sidecar) -> None:
    """Write an artifact that is JSON itself: `content` with the sidecar's facts under `provenance`."""
    done = dataclasses.replace(provenance, created=_now())
    signature_path(path).unlink(missing_ok=True)
    write_bytes(path, _dump({**content, "provenance": to_plain(done)}))


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
