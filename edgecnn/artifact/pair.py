"""An artifact and its sidecar, which take the place of the old ones together.

No file system replaces two files at once. Both new ones are therefore whole on disk first, in a folder, and with its
name `.X.edgecnn-next` they are what counts: whoever comes next and finds it moves them to their places, be it the
process that wrote them or the next that reads `X`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from edgecnn.artifact.signature import signature_path
from edgecnn.artifact.temporary import disk_errors, is_temporary, temporary_file

_PATIENCE_S = 10.0
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of `path` stands."""
    return path.with_name(path.name + ".json")


def next_folder(path: Path) -> Path:
    """Where the files that replace `path` and its sidecar stand, once they are whole."""
    return path.with_name(f".{path.name}.edgecnn-next")


def replace_pair(temporary: Path, sidecar: bytes, path: Path) -> None:
    """Make `temporary` with its `sidecar`, and what else is in its folder, the new `path`, its sidecar and what is
    beside them; raises `OSError`, and `WriteError` of the sidecar, after which the old files or the new ones count."""
    folder = temporary.parent
    with disk_errors(sidecar_path(path), len(sidecar)):
        sidecar_path(temporary).write_bytes(sidecar)
        sync_file(sidecar_path(temporary))
    for file in _files_in(folder):
        if file != sidecar_path(temporary):
            sync_file(file)
    sync_folder(folder)
    _replace(folder, path)


def replace_json(temporary: Path, path: Path) -> None:
    """Make `temporary` the new `path`, an artifact that is JSON, and take the signature of the old one away; raises
    `OSError`, after which the old file with its signature or the new one counts."""
    sync_file(temporary)
    sync_folder(temporary.parent)
    _replace(temporary.parent, path)


def _replace(folder: Path, path: Path) -> None:
    with _turn(path.parent):
        whole = len(_files_in(folder))
        while True:
            settle(path)
            try:
                folder.rename(next_folder(path))
                break
            except OSError as exc:
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # of a process that did not wait for its turn
                    raise
        signature = signature_path(_described(path))
        signed = signature.exists()
        try:
            sync_folder(path.parent)
            settle(path)
        except OSError:
            with contextlib.suppress(OSError):  # none was moved or removed: the old ones are kept
                if len(_files_in(next_folder(path))) == whole and signature.exists() == signed:
                    next_folder(path).rename(folder)
            raise


def settle(path: Path) -> None:
    """Complete what a process that died has left of the pair of `path`; raises `OSError`."""
    folder = next_folder(path)
    if not folder.exists():
        return
    with contextlib.suppress(FileNotFoundError):  # another process completes it at this moment
        described = folder / _described(path).name
        if described.exists():
            signature_path(_described(path)).unlink(missing_ok=True)  # of the old one
        last = tuple(dict.fromkeys((described, folder / path.name, signature_path(described))))
        for file in (*(f for f in _files_in(folder) if f not in last), *(f for f in last if f.exists())):
            target = path.parent / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        shutil.rmtree(folder)


def _described(path: Path) -> Path:
    """What is signed of an artifact."""
    return path if path.suffix == ".json" else sidecar_path(path)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if not path.is_dir()]


def move_pair(before: Path, after: Path) -> None:
    """Move an artifact with its sidecar within its folder; raises `WriteError`. At each moment there is a whole pair,
    and at some there are two."""
    with disk_errors(after), temporary_file(after) as temporary:
        if not sidecar_path(before).exists():
            sidecar_path(after).unlink(missing_ok=True)
            before.replace(after)
            return
        try:
            os.link(before, temporary)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            shutil.copyfile(before, temporary)
        signature = signature_path(sidecar_path(before))
        if signature.exists():
            shutil.copyfile(signature, signature_path(sidecar_path(temporary)))
        replace_pair(temporary, sidecar_path(before).read_bytes(), after)
        remove_pair(before)


def remove_pair(path: Path) -> None:
    """Remove an artifact and then its sidecar, which without it says nothing."""
    with contextlib.suppress(OSError):  # half of what would replace it may not come back
        settle(path)
    path.unlink(missing_ok=True)
    sidecar_path(path).unlink(missing_ok=True)
    signature_path(sidecar_path(path)).unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """See a file onto the disk, with the rights of any new file: libraries make some for their user alone."""
    mask = os.umask(0)
    os.umask(mask)
    with path.open("rb") as file:
        known = os.fstat(file.fileno())
        if known.st_nlink == 1 and known.st_mode & (wanted := 0o666 & ~mask) != wanted:  # a link is somebody's file
            path.chmod(wanted)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """See the names in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One process at a time renames in a folder. Where somebody else holds it for long, or the file system has no
    locks, that is not waited for: a pair that does not fit is noticed by its hash. A temporary folder is held by its
    maker, and nobody else renames there."""
    if is_temporary(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.002)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)
