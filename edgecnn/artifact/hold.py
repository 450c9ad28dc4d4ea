"""One run at a time in a folder; the second is told who holds it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from edgecnn.artifact.temporary import disk_errors, refused, required_lock
from edgecnn.errors import WriteError
from edgecnn.records import parse_json

LOCK = ".lock"


@contextlib.contextmanager
def held(folder: Path, option: str = "--out") -> Iterator[None]:
    """Hold a run folder, or another that `option` names, for this process; the system lets go of it when the process
    ends, however it does.

    A folder that cannot be written to is not held: nothing can happen in it. Raises `WriteError` that names the holder,
    or that says that the file system has no locks.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _acquire(folder, option)
    try:
        yield
    finally:
        if descriptor is not None:
            try:
                with contextlib.suppress(OSError):  # a lock file that stays holds nothing
                    (folder / LOCK).unlink()
            finally:
                os.close(descriptor)
        with contextlib.suppress(OSError):  # nothing was written after all
            for path in made:
                path.rmdir()


def _acquire(folder: Path, option: str) -> int | None:
    """A descriptor that holds the lock file of the folder."""
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and folder.is_dir():
                return None
            raise refused(path, exc) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise WriteError(
                f"{folder}: another run is at work in it: {holder}",
                f"wait for it, or choose another folder with {option}",
            ) from exc
        except OSError as exc:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise required_lock(exc, path) from exc
        with contextlib.suppress(FileNotFoundError):  # its holder may remove it at any moment
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                try:
                    with disk_errors(path):
                        os.truncate(descriptor, 0)
                        os.pwrite(descriptor, _who(), 0)
                except BaseException:
                    os.close(descriptor)
                    raise
                return descriptor
        os.close(descriptor)


def _who() -> bytes:
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    facts = {"pid": os.getpid(), "host": platform.node(), "since": started, "command": command[:200]}
    return json.dumps(facts).encode()


def _holder(descriptor: int) -> str:
    try:
        told = parse_json(os.pread(descriptor, 4096, 0))
        return f"process {told['pid']} on {told['host']} since {told['since']}, `{told['command']}`"
    except (ValueError, KeyError, TypeError):
        return "a process that has just begun"
