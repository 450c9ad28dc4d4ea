"""Folders that are there only while something is made in them, and the errors of a disk that refuses it.

Each is held by a lock that the system lets go of when its process ends, however it does: what lies there unheld was
left by a dead process, and goes at the next write beside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from edgecnn.errors import WriteError

_OURS = re.compile(r"\..+\.edgecnn-[0-9a-f]{8}\.tmp")
_LONGEST = 200  # bytes of a file's name that its temporary file repeats: names have 255
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """The name of a file that is not there yet, in a temporary folder beside `path`: a library that writes it may
    replace it, or put others beside it. Raises `OSError`."""
    with _held_folder(path) as folder:
        yield folder / path.name


@contextlib.contextmanager
def temporary_folder(path: Path, hint: str = "") -> Iterator[Path]:
    """An empty folder beside `path` for this user alone, which is gone afterwards unless it was renamed. Raises
    `WriteError` where it cannot be made, or the disk is full."""
    with contextlib.ExitStack() as held:
        with disk_errors(path, hint=hint):
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
            temporary = held.enter_context(_held_folder(path))
        try:
            yield temporary
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            written = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
            shutil.rmtree(temporary, ignore_errors=True)
            raise refused(path, exc, 0, written, hint=hint) from exc


@contextlib.contextmanager
def _held_folder(path: Path) -> Iterator[Path]:
    remove_leftovers(path.absolute().parent)
    while True:
        name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
        temporary = path.with_name(f".{name}.edgecnn-{secrets.token_hex(4)}.tmp")
        temporary.mkdir(mode=0o700)
        try:
            held = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another process took it for a dead one's, before it was held
            continue
        try:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # it is about to
                continue
            except OSError:  # a file system without locks: nothing there is ever taken for dead
                pass
            if not temporary.exists():
                continue
            try:
                yield temporary
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return
        finally:
            os.close(held)


def is_temporary(folder: Path) -> bool:
    """Whether it is one of these, where one process alone writes."""
    return _OURS.fullmatch(folder.name) is not None


def scratch_folder() -> AbstractContextManager[Path]:
    """A temporary folder where the system keeps such."""
    hint = "free some space there, or name another folder in TMPDIR"
    return temporary_folder(Path(tempfile.gettempdir()) / "edgecnn", hint)


def remove_leftovers(folder: Path) -> None:
    """Remove what dead processes have left in a folder; what is not known to be dead stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if _OURS.fullmatch(entry.name)]:
            with contextlib.suppress(OSError), _alone(path):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The block runs where no other process holds the folder; raises `OSError` where one does, or nobody knows."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)


@contextlib.contextmanager
def disk_errors(path: Path, size: int = 0, hint: str = "", *, full_alone: bool = False) -> Iterator[None]:
    """An `OSError` as the `WriteError` that `refused` makes of it; with `full_alone` only that of a full disk, where
    others may be of other files."""
    try:
        yield
    except OSError as exc:
        if full_alone and exc.errno not in FULL:
            raise
        raise refused(path, exc, size, hint=hint) from exc


def refused(path: Path, error: OSError, size: int = 0, written: int = 0, *, hint: str = "") -> WriteError:
    """What is told of a file that the folder or the disk refused; of a full disk also the bytes that were needed, its
    `size` or, where nobody knows that, more than were `written`, and those that are free."""
    if error.errno == errno.ENOLCK:
        return required_lock(error, path)
    message, room = f"{path}: cannot be written: {error.strerror or error}", free_bytes(path)
    if error.errno in FULL and room is not None:
        needed = f"{amount(size)} needed" if size else f"more than {amount(written)} needed"
        message += f": {needed}, {amount(room)} free"
    return WriteError(message, hint or "free some space, or choose a folder that you may write to with --out or -o")


def require_space(path: Path, needed: int, hint: str = "") -> None:
    """Raise `WriteError` where fewer than `needed` bytes are free on the disk of `path`."""
    room = free_bytes(path)
    if room is not None and room < needed:
        raise refused(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), needed, hint=hint)


def free_bytes(path: Path) -> int | None:
    """The bytes that are free where `path` is or would be; None where the system does not say."""
    with contextlib.suppress(OSError):
        for folder in path.absolute().parents:
            if folder.exists():
                return shutil.disk_usage(folder).free
    return None


def amount(size: int) -> str:
    """Bytes as a reader takes them in."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def required_lock(error: OSError, path: Path) -> WriteError:
    """What is told where the file system has no locks, which keep two processes out of one file."""
    return WriteError(
        f"{path}: cannot be locked: {error.strerror or error}",
        "its file system has no locks: mount it with them (NFS: `local_lock=flock`), or choose another disk",
    )
