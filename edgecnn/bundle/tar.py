"""The archive of a bundle: an uncompressed tar of plain files, read by rules that are stricter than tar's.

Its first member is the manifest, which names every other one with size and sha256. Reading goes header by header, so
that nothing that a header declares is allocated or skipped unseen, and nothing is written before all of it was read.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from edgecnn.artifact.temporary import disk_errors
from edgecnn.artifact.write import atomic_path
from edgecnn.bundle.manifest import MANIFEST, Bundle, BundledFile, bundle_from_json, require_safe
from edgecnn.errors import ArtifactError, WriteError

BLOCK, CHUNK = 512, 1 << 20
LARGEST_MANIFEST = 64 << 20
ENCODING = "utf-8"
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file", tarfile.CONTTYPE: "a contiguous file",
}  # fmt: skip
_AGAIN = "copy it again, or make it again: `edgecnn bundle RUN --for TARGET -o FILE.tar`"
_UNTRUSTED = "do not trust this file; make it again: `edgecnn bundle RUN --for TARGET -o FILE.tar`"

Opened = Callable[[], BinaryIO]


@dataclass(frozen=True)
class _Member:
    """A plain file in the archive: where its content lies."""

    name: str
    size: int
    offset: int


def bundled_file(path: str, opened: Opened) -> BundledFile:
    """A file as the manifest names it."""
    digest, size = hashlib.sha256(), 0
    with opened() as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return BundledFile(path, size, digest.hexdigest())


def write_tar(output: Path, manifest: bytes, files: Mapping[str, tuple[int, Opened]]) -> None:
    """Write the manifest and each file, of its size in bytes, whole or not at all; the same content gives the same
    archive. Raises `WriteError`."""
    whole = len(manifest) + sum(size for size, _ in files.values())
    with atomic_path(output, whole) as temporary, temporary.open("wb") as archive:
        archive.write(_header(MANIFEST, len(manifest), output) + manifest + _padding(len(manifest)))
        for name, (size, opened) in files.items():
            archive.write(_header(name, size, output))
            left = size
            with opened() as file:
                while chunk := file.read(CHUNK):
                    archive.write(chunk)
                    left -= len(chunk)
            if left:
                raise WriteError(f"{output}: {name} changed while it was packed", "pack the run again")
            archive.write(_padding(size))
        archive.write(bytes(2 * BLOCK))


def read_bundle(path: Path) -> Bundle:
    """The manifest of a bundle, after all of the archive was checked against it: nothing is written.

    Raises `ArtifactError` for what is no bundle, of another version, truncated or damaged, and for members that are
    links, devices or folders, stand there twice, are not in the manifest, or could leave the folder.
    """
    with _open(path) as archive:
        bundle, members = _members(path, archive)
        for file in bundle.files:
            digest = hashlib.sha256()
            for chunk in _content(path, archive, members[file.path]):
                digest.update(chunk)
            _require_sha256(path, file, digest.hexdigest())
    return bundle


def extract_bundle(path: Path, bundle: Bundle, scratch: Path) -> None:
    """Write every file of a bundle that was read into an empty folder; raises `ArtifactError` where the archive is not
    that `bundle` any more, and `OSError`."""
    with _open(path) as archive:
        found, members = _members(path, archive)
        if found != bundle:
            raise ArtifactError(f"{path}: was changed while it was read", "run it again")
        for file in bundle.files:
            target, digest = scratch / file.path, hashlib.sha256()
            target.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(target, file.size, full_alone=True), target.open("xb") as written:
                for chunk in _content(path, archive, members[file.path]):
                    digest.update(chunk)
                    written.write(chunk)
                written.flush()
                os.fsync(written.fileno())
            _require_sha256(path, file, digest.hexdigest())


def _members(path: Path, archive: IO[bytes]) -> tuple[Bundle, dict[str, _Member]]:
    """The manifest, and each file that it names."""
    end = os.fstat(archive.fileno()).st_size
    members = _plain_files(path, archive, end)
    first = next(members, None)
    if first is None or first.name != MANIFEST:
        raise ArtifactError(f"{path}: not a bundle: its first member is not {MANIFEST}", _AGAIN)
    if first.size > LARGEST_MANIFEST:
        raise ArtifactError(
            f"{path}: {MANIFEST} of {first.size} bytes, at most {LARGEST_MANIFEST} are read", _UNTRUSTED
        )
    bundle = bundle_from_json(b"".join(_content(path, archive, first)), str(path))
    sizes, found = {file.path: file.size for file in bundle.files}, dict[str, _Member]()
    for member in members:
        if member.name in found or member.name == MANIFEST:
            raise ArtifactError(f"{path}: member {member.name!r} stands there twice", _UNTRUSTED)
        if member.size != sizes.get(member.name):
            said = "is not in the manifest"
            if member.name in sizes:
                said = f"has {member.size} bytes, the manifest says {sizes[member.name]}"
            raise ArtifactError(f"{path}: member {member.name!r} {said}", _UNTRUSTED)
        found[member.name] = member
    if missing := next((name for name in sizes if name not in found), None):
        raise ArtifactError(f"{path}: {missing} is missing", _AGAIN)
    return bundle, found


def _plain_files(path: Path, archive: IO[bytes], end: int) -> Iterator[_Member]:
    """Every member up to the end mark; raises `ArtifactError` for one that is no plain file."""
    offset = 0
    while True:
        archive.seek(offset)
        block = archive.read(BLOCK)
        if block == bytes(BLOCK):
            return
        try:
            header = tarfile.TarInfo.frombuf(block, ENCODING, "surrogateescape")
        except tarfile.HeaderError as exc:
            if offset == 0:
                raise ArtifactError(f"{path}: not a bundle: no uncompressed tar ({exc})", _AGAIN) from exc
            what = "truncated" if len(block) < BLOCK else f"damaged at byte {offset}"
            raise ArtifactError(f"{path}: {what} ({exc})", _AGAIN) from exc
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            kind = _KINDS.get(header.type, f"of type {header.type!r}")
            raise ArtifactError(f"{path}: member {header.name!r} is {kind}, not a plain file", _UNTRUSTED)
        require_safe(header.name, str(path))
        if header.size < 0 or offset + BLOCK + header.size > end:
            raise ArtifactError(
                f"{path}: truncated: {header.name!r} declares {header.size} bytes, "
                f"{max(end - offset - BLOCK, 0)} are there",
                _AGAIN,
            )
        yield _Member(header.name, header.size, offset + BLOCK)
        offset += BLOCK + header.size + len(_padding(header.size))


def _content(path: Path, archive: IO[bytes], member: _Member) -> Iterator[bytes]:
    archive.seek(member.offset)
    left = member.size
    while left:
        chunk = archive.read(min(left, CHUNK))
        if not chunk:
            raise ArtifactError(f"{path}: truncated within {member.name!r}", _AGAIN)
        left -= len(chunk)
        yield chunk


def _require_sha256(path: Path, file: BundledFile, found: str) -> None:
    if found != file.sha256:
        raise ArtifactError(
            f"{path}: {file.path}: its sha256 {found[:12]} is not the one in the manifest ({file.sha256[:12]})", _AGAIN
        )


def _header(name: str, size: int, output: Path) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    short = len(name.encode(ENCODING, "surrogateescape")) <= tarfile.LENGTH_NAME
    try:
        return info.tobuf(tarfile.GNU_FORMAT if short else tarfile.USTAR_FORMAT, ENCODING, "surrogateescape")
    except ValueError as exc:
        raise WriteError(
            f"{output}: {name}: its name, or its file, is too long for a bundle ({exc})", "pack it: --images packed"
        ) from exc


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _open(path: Path) -> BinaryIO:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", "make it with `edgecnn bundle RUN --for TARGET -o FILE.tar`")
    try:
        return path.open("rb")
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
