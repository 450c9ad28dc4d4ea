"""The private folder on a device: the first half of the text that runs there, `agent.py` is the second.

It needs the standard library alone. All that it keeps lies in one folder of the user's home: `store/SHA256` (files by
their content), `site/` (Python packages), `jobs/` (what commands work in), `setup.json` and `python`.
"""

import contextlib
import errno
import fcntl
import getpass
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FOLDER, README, MARK = ".edgecnn-remote", "README", "made by edgecnn remote setup\n"
STORE, SITE, JOBS, LOCK = "store", "site", "jobs", "lock"
PART = ".part-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RefusedError(Exception):
    """What cannot be done here, and what to do about it; told to the machine that asked."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def home(create: bool = True) -> Path:
    """The private folder; refused where something else bears its name."""
    path = Path("~").expanduser() / FOLDER
    if create:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    if path.is_symlink() or (path.exists() and (not path.is_dir() or path.stat().st_uid != os.getuid())):
        raise RefusedError(f"{path}: is a link, or another user's", "move it away: the folder is for this user alone")
    if create:
        path.chmod(stat.S_IRWXU)
        require_ours(path)
        if not (path / README).exists():
            with kept_whole(path / README) as file:
                file.write(MARK.encode())
        for name in (STORE, SITE, JOBS):
            (path / name).mkdir(exist_ok=True)
    return path


def require_ours(path: Path) -> None:
    """Refuse a folder of that name that somebody else has made: ours says so, or was only begun."""
    readme = path / README
    if readme.is_file() and readme.read_text(errors="replace") == MARK:
        return
    if any(not file.name.startswith(PART) for file in path.iterdir()):
        raise RefusedError(f"{path}: was not made by edgecnn", "look what it is, and remove it by hand")


def user_name() -> str:
    """Of this process's user; the number where it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def is_whole(path: Path, size: int) -> bool:
    """Whether a file is there: none gets its name before it was checked by its hash."""
    return path.is_file() and path.stat().st_size == size


@contextlib.contextmanager
def kept_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name once it is on the disk, or is not there."""
    descriptor, name = tempfile.mkstemp(prefix=PART, dir=path.parent)
    part = Path(name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with open(descriptor, "wb", closefd=False) as file:
            yield file
        os.fsync(descriptor)
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as exc:
        raise full_disk(path, exc) from exc
    finally:
        part.unlink(missing_ok=True)
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what dead processes have left; what is still written is held."""
    for part in folder.glob(PART + "*"):
        with contextlib.suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def require_space(path: Path, needed: int) -> None:
    """Refuse what does not fit before it is sent."""
    free = shutil.disk_usage(path).free
    if needed > free:
        raise no_room(path, f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


def full_disk(path: Path, exc: OSError) -> RefusedError:
    """What is told of a full disk; another error is told as it is."""
    if exc.errno not in FULL:
        return RefusedError(f"{exc.filename or path}: {exc.strerror or exc}", "check that folder and its permissions")
    return no_room(path.parent, f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB free")


def no_room(path: Path, figures: str) -> RefusedError:
    """A full disk, with what is needed and free."""
    return RefusedError(
        f"{path}: the disk is full: {figures}", "free some space there; `edgecnn remote clean HOST` removes all of ours"
    )


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """One command at a time; the second is told who is at work. The system lets go when the process ends."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "somebody who has just begun"
            raise RefusedError(
                f"in use: {holder}", "wait until that has ended: two at once would measure each other"
            ) from exc
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{what}, since {since}, process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
