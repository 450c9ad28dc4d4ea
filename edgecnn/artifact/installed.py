"""Releases that are installed in a folder, of which one serves.

    DIR/current -> releases/NAME      what serves: a link, which is replaced by one rename
    DIR/releases/NAME/                a release, whole: engine, sidecars, golden images, release.json, installed.json

What a release took over from stands in its own `installed.json`, which is whole before the link leads there: one rename
changes what serves and what a rollback leads to. The two of them are kept, what is older goes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from edgecnn.artifact.hold import LOCK
from edgecnn.artifact.pair import sync_file, sync_folder
from edgecnn.artifact.temporary import disk_errors, is_temporary, remove_leftovers, temporary_folder
from edgecnn.artifact.write import require_writable, write_bytes
from edgecnn.errors import ArtifactError, WriteError
from edgecnn.limits import read_file
from edgecnn.records import record_from_json, to_plain
from edgecnn.results.release import Installed

CURRENT, RELEASES, RECORD = "current", "releases", "installed.json"
OPTION = "--to"
_NAME = re.compile(r"[0-9a-f]{16}(-[0-9]+)?")
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_HINT = f"free some space, or choose a folder that you may write to with {OPTION}"


def default_folder() -> Path:
    """`$XDG_DATA_HOME/edgecnn/installed` (XDG Base Directory Specification), in ~/.local/share where that is not set,
    or relative; raises `WriteError` for a user without a home."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".local" / "share"
        except RuntimeError as exc:
            raise WriteError("this user has no home folder to install into", f"name a folder with {OPTION}") from exc
    return base / "edgecnn" / "installed"


def require_place(folder: Path) -> None:
    """Raise `WriteError` where no releases can be installed: a folder that is none, that is read-only or holds
    something else, or a `current` that is no link."""
    require_writable(folder, option=OPTION)
    if folder.exists() and not folder.is_dir():
        raise WriteError(f"{folder}: is not a folder", f"choose another one with {OPTION}")
    known = {CURRENT, RELEASES, LOCK}
    other = [p.name for p in folder.iterdir() if p.name not in known and not is_temporary(p)] if folder.exists() else []
    if other:
        raise WriteError(
            f"{folder}: holds {sorted(other)[0]!r}, which no release brought",
            f"name a folder for releases alone with {OPTION}",
        )
    current_release(folder)


def require_links(folder: Path) -> None:
    """Raise `WriteError` where the file system has no symbolic links: one is made in the folder, and goes."""
    with disk_errors(folder, hint=_HINT), temporary_folder(folder / CURRENT, _HINT) as scratch:
        try:
            (scratch / CURRENT).symlink_to(RELEASES)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            raise WriteError(
                f"{folder}: its file system has no symbolic links ({exc.strerror}), by which one release takes the "
                "place of another at once",
                f"choose a folder on another disk with {OPTION}",
            ) from exc


def current_release(folder: Path) -> str:
    """The name of the release that serves, "" for none; raises `WriteError` where `current` is something else."""
    link = folder / CURRENT
    if not link.is_symlink():
        if link.exists():
            raise WriteError(f"{link}: is no link to a release", f"remove it, or choose another folder with {OPTION}")
        return ""
    leads = link.readlink()
    if leads.parent != Path(RELEASES) or not _NAME.fullmatch(leads.name):
        raise WriteError(
            f"{link}: leads to {str(leads)[:80]!r}, which is no release in {folder / RELEASES}",
            f"remove it, or choose another folder with {OPTION}",
        )
    return leads.name


def release_folder(folder: Path, name: str) -> Path:
    """Where a release lies, or would."""
    return folder / RELEASES / name


def read_installed(folder: Path, name: str) -> Installed:
    """What `installed.json` says of a release; raises `ArtifactError`, also for a name that is none."""
    path, again = release_folder(folder, name) / RECORD, "install a release: `edgecnn install FILE.tar`"
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"{folder}: no release is named {name[:40]!r}", again)
    try:
        return record_from_json(Installed, read_file(path).decode(errors="replace"), str(path), again)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", again) from exc


def write_installed(path: Path, installed: Installed) -> None:
    """Replace an `installed.json`; raises `WriteError`."""
    write_bytes(path / RECORD, (json.dumps(to_plain(installed), indent=1, ensure_ascii=False) + "\n").encode())


def place_release(made: Path, folder: Path, name: str) -> None:
    """Make the folder `made`, on the same disk, a release; raises `OSError`. Nothing serves it so far."""
    for path in made.rglob("*"):
        sync_file(path) if path.is_file() else sync_folder(path)
    sync_folder(made)
    made.rename(release_folder(folder, name))
    sync_folder(folder / RELEASES)


def switch(folder: Path, name: str) -> None:
    """Let `current` lead to a release: before, the old one serves, and afterwards this. Raises `WriteError`."""
    with disk_errors(folder / CURRENT, hint=_HINT), temporary_folder(folder / CURRENT, _HINT) as scratch:
        (scratch / CURRENT).symlink_to(Path(RELEASES) / name)
        (scratch / CURRENT).replace(folder / CURRENT)
        sync_folder(folder)


def remove_releases(folder: Path, kept: Collection[str]) -> None:
    """Remove all but the `kept` releases, as far as that goes: what is left goes the next time."""
    for place in (folder, folder / RELEASES, *(release_folder(folder, name) for name in kept)):
        remove_leftovers(place)
    with contextlib.suppress(OSError):
        for path in (folder / RELEASES).iterdir():
            if _NAME.fullmatch(path.name) and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
