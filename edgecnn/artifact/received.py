"""Files that came from another machine take their places: all of a folder, or each artifact with its sidecar."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from edgecnn.artifact.pair import replace_pair, sidecar_path, sync_file, sync_folder
from edgecnn.artifact.temporary import disk_errors, temporary_file
from edgecnn.artifact.write import atomic_path

PREVIOUS = ".previous"


def place_files(scratch: Path, folder: Path) -> list[Path]:
    """Move every file of `scratch`, which lies on the same disk, into `folder`; an artifact and its sidecar replace the
    old ones together. Returns where they are now; raises `WriteError`."""
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    sidecars = {sidecar_path(path) for path in files} & set(files)
    for file in files:
        target = folder / file.relative_to(scratch)
        if file in sidecars:
            continue
        with disk_errors(target, file.stat().st_size):
            target.parent.mkdir(parents=True, exist_ok=True)
            if sidecar_path(file) not in sidecars:
                with atomic_path(target) as temporary:
                    file.replace(temporary)
                continue
            with temporary_file(target) as temporary:
                file.replace(temporary)
                replace_pair(temporary, sidecar_path(file).read_bytes(), target)
    return [folder / file.relative_to(scratch) for file in files]


def replace_folder(scratch: Path, folder: Path) -> None:
    """Make `scratch`, which lies beside it, the new `folder`; one that was there goes. What a process that died in
    between has left, `restore_folder` puts back. Raises `WriteError`."""
    with disk_errors(folder):
        for path in scratch.rglob("*"):
            sync_file(path) if path.is_file() else sync_folder(path)
        sync_folder(scratch)
        before = folder.with_name(f".{folder.name}{PREVIOUS}")
        shutil.rmtree(before, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(before)
        scratch.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(before, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Put the old `folder` back where a process died before the new one took its name."""
    before = folder.with_name(f".{folder.name}{PREVIOUS}")
    with contextlib.suppress(OSError):
        if before.is_dir() and not folder.exists():
            before.rename(folder)
