"""A release on a board: verified, tested on its golden images, installed by one rename, taken back by another."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgecnn.artifact.hold import held
from edgecnn.artifact.installed import (
    CURRENT,
    OPTION,
    current_release,
    default_folder,
    place_release,
    read_installed,
    release_folder,
    remove_releases,
    require_links,
    require_place,
    switch,
    write_installed,
)
from edgecnn.artifact.signature import check_signature, is_required, require_signature, signature_path
from edgecnn.artifact.temporary import disk_errors, require_space, scratch_folder, temporary_folder
from edgecnn.backends import load_backend
from edgecnn.bundle.release import (
    DIGITS,
    GOLDEN,
    MANIFEST,
    REFERENCE,
    RELEASE,
    Release,
    ReleasedEngine,
    damaged_file,
    files_of,
    release_name,
)
from edgecnn.bundle.tar import Archive, extract_archive, read_archive
from edgecnn.errors import ArtifactError, BackendError, CrashError, DeviceError, EdgecnnError
from edgecnn.measure.golden import self_test_of
from edgecnn.remote.engines import validate
from edgecnn.results.device import Device
from edgecnn.results.release import Installation, Installed, SelfTest
from edgecnn.version import __version__

Say = Callable[[str], None]
_AGAIN = "make one of a run on a device like this one"
SPARE = 1.05  # of the bytes that are unpacked, for what file systems keep beside them


def install(
    archive: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    say: Say = lambda line: None,
) -> Installation:
    """Install the engine of a release that is for this device into the folder `to` (`default_folder`).

    The archive is read whole and compared with its manifest, whose signature is checked; the engine is unpacked beside
    those that are installed, and run on the golden images. Where it keeps to the limits, `current` is made to lead to
    it by one rename; where it does not, nothing changes, and the result's verdict is FAIL. What served before is kept
    for `rollback`. What is installed already is tested again and stays.

    Raises `ArtifactError` for an archive that is damaged, hostile or not signed as demanded, `DeviceError` where none
    of its engines is for this device, the errors of the engine, and `WriteError`.
    """
    archive, folder = Path(archive), default_folder() if to is None else Path(to)
    found = read_archive(archive, RELEASE)
    signed_by = _require_signed(archive, found, say)
    row = _for_this_device(archive, found.manifest, threads, say)
    require_place(folder)
    with held(folder, OPTION):
        require_links(folder)
        before = current_release(folder)
        _tell_of_another(folder, before, row, say)
        name, is_there = _place(folder, row, found)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        installed = Installed(
            release=name,
            previous=_previous(folder, before, name),
            recipe=row.recipe,
            target=row.target,
            device_key=row.device_key,
            engine=row.engine,
            precision=row.precision,
            signed_by=signed_by,
            edgecnn=__version__,
            created=now,
            self_test=row.limits,
        )
        at = release_folder(folder, name)
        if is_there:
            installed = replace(installed, self_test=_tested(archive, at, row, threads))
            if installed.verdict == "PASS" and name != before:
                write_installed(at, installed)
        else:
            installed = _unpack(archive, found, row, at, installed, threads)
        if name != before and installed.verdict == "PASS":
            switch(folder, name)
        if installed.verdict == "PASS":
            remove_releases(folder, {name, installed.previous})
    changed = installed.verdict == "PASS" and name != before
    return Installation(path=str(folder / CURRENT / row.engine), changed=changed, installed=installed)


def rollback(to: str | os.PathLike[str] | None = None) -> Installation:
    """Let the release serve again that the one which serves now took over from; nothing is run.

    Raises `ArtifactError` where there is none, where a file of it is not as it was released, and where it is not signed
    as demanded.
    """
    folder = default_folder() if to is None else Path(to)
    if not (folder / CURRENT).is_symlink():
        raise ArtifactError(f"{folder}: no release is installed there", f"name the folder with {OPTION}")
    require_place(folder)
    with held(folder, OPTION):
        now = read_installed(folder, current_release(folder))
        if not now.previous:
            raise ArtifactError(
                f"{folder}: {now.release} took over from no release", "install another: `edgecnn install FILE.tar`"
            )
        at, again = release_folder(folder, now.previous), "install it again: `edgecnn install FILE.tar`"
        if not at.is_dir():
            raise ArtifactError(f"{folder}: {now.previous}, which served before, is kept no longer", again)
        before = read_installed(folder, now.previous)
        if damaged := damaged_file(at, before.device_key):
            raise ArtifactError(f"{at / damaged}: is not as it was released; {now.release} serves on", again)
        require_signature(at / MANIFEST)
        check_signature(at / MANIFEST, (at / MANIFEST).read_bytes())
        switch(folder, now.previous)
    return Installation(path=str(folder / CURRENT / before.engine), changed=True, installed=before)


def _require_signed(archive: Path, found: Archive[Release], say: Say) -> str:
    """Who has signed a release, "" where that is not known here; raises `ArtifactError` for a signature of another
    content or of somebody who is not allowed, and where one is demanded and there is none."""
    if not found.signature:
        if is_required():
            raise ArtifactError(
                f"{archive}: is not signed", "who made it signs it: `edgecnn release RUN -o FILE.tar --key KEY`"
            )
        say(f"{archive}: is not signed: who made it is not known; --require-signature refuses it")
        return ""
    with scratch_folder() as scratch:
        described = scratch / MANIFEST
        (scratch / MANIFEST).write_bytes(found.text)
        signature_path(scratch / MANIFEST).write_bytes(found.signature)
        try:
            return check_signature(described, found.text)
        except ArtifactError as exc:
            raise ArtifactError(exc.message.replace(str(described), f"{archive}: {MANIFEST}"), exc.hint) from exc


def _for_this_device(archive: Path, release: Release, threads: int | None, say: Say) -> ReleasedEngine:
    """The engine of a release that was judged on a device like this one."""
    here, why = dict[str, Device](), list[str]()
    for backend in dict.fromkeys(row.backend for row in release.engines):
        try:
            here[backend] = load_backend(backend).device(threads)
        except EdgecnnError as exc:
            why.append(exc.message)
    for row in release.engines:
        device = here.get(row.backend)
        if device is not None and device.engine_key == row.device_key:
            for what in ("power_mode", "threads"):
                judged, now = getattr(row.device, what), getattr(device, what)
                if judged != now and None not in (judged, now):
                    say(f"{archive}: its latency was judged with {what} {judged}, here it is {now}")
            return row
    keys = ", ".join(dict.fromkeys(device.engine_key for device in here.values()))
    raise DeviceError(
        f"{archive}: holds no engine for this device{f', {keys}' if keys else ''}; it is for "
        f"{', '.join(row.device_key for row in release.engines)}" + (f" ({'; '.join(why)})" if why else ""),
        f"an engine runs where it was judged: {_AGAIN}",
    )


def _place(folder: Path, row: ReleasedEngine, found: Archive[Release]) -> tuple[str, bool]:
    """The name under which a release is to lie, and whether it lies there whole: beside one that is damaged."""
    number, name = 1, release_name(found.text)
    while (at := release_folder(folder, name)).exists():
        if not _damaged(folder, name, at, row, found):
            return name, True
        number += 1
        name = f"{release_name(found.text)}-{number}"
    return name, False


def _tell_of_another(folder: Path, before: str, row: ReleasedEngine, say: Say) -> None:
    """Of a release of another recipe that serves there: a folder is one classifier's."""
    with contextlib.suppress(ArtifactError):  # nothing serves, or it is damaged
        if before and (other := read_installed(folder, before).recipe) != row.recipe:
            say(
                f"{folder}: {other} serves there, this is {row.recipe}: name a folder for each classifier with {OPTION}"
            )


def _previous(folder: Path, before: str, name: str) -> str:
    """What a rollback from the release `name` leads to: what serves `before` it, unless that is the same one."""
    if before[:DIGITS] != name[:DIGITS]:
        return before
    try:
        return read_installed(folder, before).previous
    except ArtifactError:  # it is damaged, which is why it is installed again
        return ""


def _damaged(folder: Path, name: str, at: Path, row: ReleasedEngine, found: Archive[Release]) -> bool:
    """Whether anything of a release is not as it came, the signature that it comes with now among it."""
    signature = signature_path(at / MANIFEST)
    if found.signature and not (signature.is_file() and signature.read_bytes() == found.signature):
        return True
    try:
        return read_installed(folder, name).engine != row.engine or damaged_file(at, row.device_key, found.text) != ""
    except ArtifactError:
        return True


def _unpack(
    archive: Path,
    found: Archive[Release],
    row: ReleasedEngine,
    at: Path,
    installed: Installed,
    threads: int | None,
) -> Installed:
    """Unpack and test an engine; only one that passes gets its place."""
    needed = sum(file.size for file in files_of(found.manifest, row.device_key).values()) + len(found.text)
    hint = f"free some space, or choose another folder with {OPTION}"
    with disk_errors(at, needed, hint):
        require_space(at, int(SPARE * needed), hint)
        with temporary_folder(at, hint) as scratch:
            made = scratch / at.name
            made.mkdir()
            extract_archive(archive, RELEASE, found.manifest, made, f"{row.device_key}/", hint)
            (scratch / at.name / MANIFEST).write_bytes(found.text)
            if found.signature:
                (scratch / at.name / signature_path(Path(MANIFEST))).write_bytes(found.signature)
            installed = replace(installed, self_test=_tested(archive, made, row, threads))
            if installed.verdict == "PASS":
                write_installed(made, installed)
                place_release(made, at.parent.parent, at.name)
    return installed


def _tested(archive: Path, at: Path, row: ReleasedEngine, threads: int | None) -> SelfTest:
    """The self-test in a folder where nobody builds: errors are told of the archive."""
    try:
        return self_test(at / row.engine, at, row, threads)
    except EdgecnnError as exc:
        exc.message = exc.message.replace(f"{at}/", f"{archive}: {row.device_key}/")
        if type(exc) is BackendError:
            exc.hint = f"a release is for the runtime that it was made with: {_AGAIN}"
        raise


def self_test(engine: Path, golden: Path, row: ReleasedEngine, threads: int | None) -> SelfTest:
    """What an engine makes of the golden images in the folder `golden`, in a process of its own if it is native code;
    raises the errors of the engine, but for its crash."""
    try:
        accuracy = validate(engine, golden / REFERENCE, data=str(golden / GOLDEN), threads=threads)
    except CrashError as exc:
        return replace(row.limits, crash=exc.ended)
    return self_test_of(accuracy, row.limits)
