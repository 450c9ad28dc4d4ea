"""A disk on which one file operation fails, or after which nothing changes any more, as after a kill.

Operations are those that change names or what stands under them: opening to write, fsync, rename, link, remove, making
and removing folders, below one folder; bytes that are written are not counted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Fault = Literal["none", "fails", "dies"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NAMED = {"os.rename": 2, "os.link": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.truncate": 1, "os.symlink": 2}


class Killed(BaseException):
    """The process would be dead: nothing may catch it, and what cleans up changes nothing."""


@dataclass
class FaultyDisk:
    """Counts the operations below `folder`; the one numbered `at` (from 0) fails, or is the first of which nothing is
    done."""

    folder: Path
    fault: Fault = "none"
    at: int = -1
    seen: list[str] = field(default_factory=list)

    def operation(self, what: str) -> None:
        number = len(self.seen)
        self.seen.append(what)
        if self.fault == "dies" and number >= self.at:
            raise Killed(what)
        if self.fault == "fails" and number == self.at:
            raise OSError(errno.EIO, f"{os.strerror(errno.EIO)} ({what})")

    def hit(self) -> bool:
        return len(self.seen) > self.at


_now: list[FaultyDisk] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _now:
        return
    disk = _now[-1]
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & WRITING and _below(path, disk.folder):
            disk.operation(f"open {Path(os.fsdecode(path)).name}")
    elif event in NAMED:
        paths = [_whole(path, arguments[-1]) for path in arguments[: NAMED[event]]]
        if any(_below(path, disk.folder) for path in paths):
            disk.operation(f"{event.removeprefix('os.')} {' '.join(Path(path).name for path in paths)}")


def _whole(path: Any, folder: Any) -> str:
    """A path that is relative to an open folder, as `shutil.rmtree` gives them, from the root."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
    name = os.fsdecode(path)
    if os.path.isabs(name) or not isinstance(folder, int) or folder < 0:  # noqa: PTH117
        return name
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)  # noqa: PTH115, PTH118


def _below(path: Any, folder: Path) -> bool:
    if isinstance(path, int) or path is None:
        return False
    return os.path.abspath(os.fsdecode(path)).startswith(f"{folder}{os.sep}")  # noqa: PTH100 - links are not followed


@contextlib.contextmanager
def faulty(folder: Path, fault: Fault = "none", at: int = -1) -> Iterator[FaultyDisk]:
    """The block runs on such a disk; `Killed` ends it and goes no further."""
    if not _hooked:
        sys.addaudithook(_hook)  # for the life of the process: Python takes none away
        _hooked.append(True)
    disk, fsync = FaultyDisk(folder, fault, at), os.fsync

    def counted(descriptor: Any) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        if _below(path, folder) or path == str(folder):
            disk.operation(f"fsync {Path(path).name}")
        fsync(descriptor)

    os.fsync = counted  # type: ignore[assignment]
    _now.append(disk)
    try:
        yield disk
    except Killed:
        pass
    finally:
        _now.pop()
        os.fsync = fsync


def every_fault(
    folder: Path, prepare: Callable[[], object], action: Callable[[], object], chosen: Callable[[int], bool] = bool
) -> Iterator[tuple[FaultyDisk, BaseException | None]]:
    """After each fault of each operation that `action` does below `folder`: the disk, and what was raised. `prepare`
    makes the state before each; `chosen` takes some of the operations by their number from 1."""
    prepare()
    with faulty(folder) as whole:
        action()
    assert len(whole.seen) > 1, "nothing was written"
    faults: tuple[Fault, ...] = ("fails", "dies")
    for fault in faults:
        for at in range(len(whole.seen)):
            if not chosen(at + 1):
                continue
            prepare()
            raised: BaseException | None = None
            with faulty(folder, fault, at) as disk:
                try:
                    action()
                except Exception as exc:  # noqa: BLE001 - whatever it is
                    raised = exc
            yield disk, raised
