"""The archive of a bundle or a release: an uncompressed tar of plain files, read by rules stricter than tar's.

Its first member is the manifest, which names every other one with size and sha256, but for its own signature. Reading
goes header by header, so that nothing that a header declares is allocated or skipped unseen, and nothing is written
before all of it was read.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Generic, Protocol, TypeVar

from edgecnn.artifact.signature import signature_path
from edgecnn.artifact.temporary import disk_errors
from edgecnn.artifact.write import atomic_path
from edgecnn.bundle.manifest import MANIFEST, Bundle, BundledFile, bundle_from_json, unsafe
from edgecnn.errors import ArtifactError, WriteError

BLOCK, CHUNK = 512, 1 << 20
LARGEST_MANIFEST = 64 << 20
ENCODING = "utf-8"
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file", tarfile.CONTTYPE: "a contiguous file",
}  # fmt: skip
LARGEST_SIGNATURE = 1 << 16

Opened = Callable[[], BinaryIO]


class Manifest(Protocol):
    """What names the files of an archive."""

    @property
    def files(self) -> tuple[BundledFile, ...]: ...


M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class ArchiveKind(Generic[M]):
    """`what` an archive is, the name of its first member and how that is read, the `command` that makes one, and
    whether the manifest's signature may lie in it."""

    what: str
    manifest: str
    parse: Callable[[bytes, str], M]
    command: str
    signed: bool = False

    @property
    def again(self) -> str:
        """What to do about one that is damaged."""
        return f"copy it again, or make it again: `{self.command}`"

    @property
    def untrusted(self) -> str:
        """What to do about one that nobody makes by mistake."""
        return f"do not trust this file; make it again: `{self.command}`"


@dataclass(frozen=True)
class Archive(Generic[M]):
    """An archive that was read: its manifest, the text of that, and its signature (b"" for none)."""

    manifest: M
    text: bytes
    signature: bytes = b""


BUNDLE = ArchiveKind("bundle", MANIFEST, bundle_from_json, "edgecnn bundle RUN --for TARGET -o FILE.tar")


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


def write_tar(
    output: Path,
    manifest: bytes,
    files: Mapping[str, tuple[int, Opened]],
    name: str = MANIFEST,
    signature: bytes = b"",
) -> None:
    """Write the manifest as the member `name`, its signature if there is one, and each file, of its size in bytes,
    whole or not at all; the same content gives the same archive. Raises `WriteError`."""
    whole = len(manifest) + len(signature) + sum(size for size, _ in files.values())
    with atomic_path(output, whole) as temporary, temporary.open("wb") as archive:
        archive.write(_header(name, len(manifest), output) + manifest + _padding(len(manifest)))
        if signature:
            beside = signature_path(Path(name)).name
            archive.write(_header(beside, len(signature), output) + signature + _padding(len(signature)))
        for path, (size, opened) in files.items():
            archive.write(_header(path, size, output))
            left = size
            with opened() as file:
                while chunk := file.read(CHUNK):
                    archive.write(chunk)
                    left -= len(chunk)
            if left:
                raise WriteError(f"{output}: {path} changed while it was packed", "pack the run again")
            archive.write(_padding(size))
        archive.write(bytes(2 * BLOCK))


def read_bundle(path: Path) -> Bundle:
    """The manifest of a bundle, as `read_archive` reads one."""
    return read_archive(path, BUNDLE).manifest


def extract_bundle(path: Path, bundle: Bundle, scratch: Path) -> None:
    """Write every file of a bundle that was read into an empty folder, as `extract_archive` does."""
    extract_archive(path, BUNDLE, bundle, scratch)


def read_archive(path: Path, kind: ArchiveKind[M]) -> Archive[M]:
    """The manifest of an archive, after all of it was checked against that: nothing is written.

    Raises `ArtifactError` for what is none of its kind, of another version, truncated or damaged, and for members that
    are links, devices or folders, stand there twice, are not in the manifest, or could leave the folder.
    """
    with _open(path, kind) as archive:
        found, members = _members(path, archive, kind)
        for file in found.manifest.files:
            digest = hashlib.sha256()
            for chunk in _content(path, archive, members[file.path], kind):
                digest.update(chunk)
            _require_sha256(path, file, digest.hexdigest(), kind)
    return found


def extract_archive(
    path: Path, kind: ArchiveKind[M], manifest: M, scratch: Path, below: str = "", hint: str = ""
) -> None:
    """Write the files of an archive that was read, those whose path begins with `below` and without that, into an empty
    folder. Raises `ArtifactError` where the archive does not have that `manifest` any more, `WriteError` with the
    `hint` where the disk is full, and `OSError`."""
    with _open(path, kind) as archive:
        found, members = _members(path, archive, kind)
        if found.manifest != manifest:
            raise ArtifactError(f"{path}: was changed while it was read", "run it again")
        for file in manifest.files:
            if not file.path.startswith(below):
                continue
            target, digest = scratch / file.path.removeprefix(below), hashlib.sha256()
            target.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(target, file.size, hint, full_alone=True), target.open("xb") as written:
                for chunk in _content(path, archive, members[file.path], kind):
                    digest.update(chunk)
                    written.write(chunk)
                written.flush()
                os.fsync(written.fileno())
            _require_sha256(path, file, digest.hexdigest(), kind)


def _members(path: Path, archive: IO[bytes], kind: ArchiveKind[M]) -> tuple[Archive[M], dict[str, _Member]]:
    """What was read of it, and each file that the manifest names."""
    end = os.fstat(archive.fileno()).st_size
    members = _plain_files(path, archive, end, kind)
    first = next(members, None)
    if first is None or first.name != kind.manifest:
        raise ArtifactError(f"{path}: not a {kind.what}: its first member is not {kind.manifest}", kind.again)
    text = _small(path, archive, first, kind, LARGEST_MANIFEST)
    manifest = kind.parse(text, str(path))
    sizes, found, signature = {file.path: file.size for file in manifest.files}, dict[str, _Member](), b""
    beside = signature_path(Path(kind.manifest)).name if kind.signed else ""
    for member in members:
        if member.name in found or member.name == kind.manifest or (signature and member.name == beside):
            raise ArtifactError(f"{path}: member {member.name!r} stands there twice", kind.untrusted)
        if member.name == beside:
            signature = _small(path, archive, member, kind, LARGEST_SIGNATURE)
            continue
        if member.size != sizes.get(member.name):
            said = "is not in the manifest"
            if member.name in sizes:
                said = f"has {member.size} bytes, the manifest says {sizes[member.name]}"
            raise ArtifactError(f"{path}: member {member.name!r} {said}", kind.untrusted)
        found[member.name] = member
    if missing := next((name for name in sizes if name not in found), None):
        raise ArtifactError(f"{path}: {missing} is missing", kind.again)
    return Archive(manifest, text, signature), found


def _small(path: Path, archive: IO[bytes], member: _Member, kind: ArchiveKind[M], most: int) -> bytes:
    """The content of a member that is read whole."""
    if member.size > most:
        raise ArtifactError(f"{path}: {member.name} of {member.size} bytes, at most {most} are read", kind.untrusted)
    return b"".join(_content(path, archive, member, kind))


def _plain_files(path: Path, archive: IO[bytes], end: int, kind: ArchiveKind[M]) -> Iterator[_Member]:
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
                raise ArtifactError(f"{path}: not a {kind.what}: no uncompressed tar ({exc})", kind.again) from exc
            what = "truncated" if len(block) < BLOCK else f"damaged at byte {offset}"
            raise ArtifactError(f"{path}: {what} ({exc})", kind.again) from exc
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            found = _KINDS.get(header.type, f"of type {header.type!r}")
            raise ArtifactError(f"{path}: member {header.name!r} is {found}, not a plain file", kind.untrusted)
        if problem := unsafe(header.name):
            raise ArtifactError(f"{path}: member {header.name[:80]!r}: {problem}", kind.untrusted)
        if header.size < 0 or offset + BLOCK + header.size > end:
            raise ArtifactError(
                f"{path}: truncated: {header.name!r} declares {header.size} bytes, "
                f"{max(end - offset - BLOCK, 0)} are there",
                kind.again,
            )
        yield _Member(header.name, header.size, offset + BLOCK)
        offset += BLOCK + header.size + len(_padding(header.size))


def _content(path: Path, archive: IO[bytes], member: _Member, kind: ArchiveKind[M]) -> Iterator[bytes]:
    archive.seek(member.offset)
    left = member.size
    while left:
        chunk = archive.read(min(left, CHUNK))
        if not chunk:
            raise ArtifactError(f"{path}: truncated within {member.name!r}", kind.again)
        left -= len(chunk)
        yield chunk


def _require_sha256(path: Path, file: BundledFile, found: str, kind: ArchiveKind[M]) -> None:
    if found != file.sha256:
        raise ArtifactError(
            f"{path}: {file.path}: its sha256 {found[:12]} is not the one in the manifest ({file.sha256[:12]})",
            kind.again,
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


def _open(path: Path, kind: ArchiveKind[M]) -> BinaryIO:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", f"make it with `{kind.command}`")
    try:
        return path.open("rb")
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
