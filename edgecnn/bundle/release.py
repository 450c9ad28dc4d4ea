"""What a release holds: one engine for each device, judged there, with the golden images that test it on a board."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.installed import RECORD
from edgecnn.artifact.sidecar import file_sha256, sidecar_path
from edgecnn.artifact.signature import signature_path
from edgecnn.bundle.manifest import BundledFile, unsafe
from edgecnn.bundle.tar import ArchiveKind
from edgecnn.errors import ArtifactError
from edgecnn.records import STRICT, mapping_from_json, record_from_mapping, to_plain
from edgecnn.results.device import Device
from edgecnn.results.release import SelfTest
from edgecnn.version import __version__

MANIFEST = "release.json"
SCHEMA = 1
DIGITS = 16
ENGINE, GOLDEN, REFERENCE, VERDICT = "model", "golden.npz", "reference.npz", "verdict.json"  # ENGINE and its suffix
COMMAND = "edgecnn release RUN -o FILE.tar"

_AGAIN = f"make it again: `{COMMAND}`"
_RESERVED = {MANIFEST, RECORD, signature_path(Path(MANIFEST)).name}


@dataclass(frozen=True, kw_only=True)
class ReleasedEngine:
    """The engine for one kind of device, and the limits of its self-test.

    Its files lie below a folder of the name `device_key`, the device's `engine_key`: `engine` with its sidecar,
    `golden_n` packed images with the reference's logits, the verdict of the run. `device` is what it was judged on. The
    limits are those of `SelfTest`.
    """

    __pydantic_config__ = STRICT

    recipe: str
    target: str
    device_key: str
    engine: str
    name: str
    precision: str
    backend: str
    device: Device
    golden_n: int
    top1_changed_max: int = 0
    sqnr_db_min: float | None = None

    @property
    def limits(self) -> SelfTest:
        """Its self-test before it was run."""
        return SelfTest(golden_n=self.golden_n, top1_changed_max=self.top1_changed_max, sqnr_db_min=self.sqnr_db_min)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Engines of one classifier, each for another device."""

    __pydantic_config__ = STRICT

    engines: tuple[ReleasedEngine, ...]
    files: tuple[BundledFile, ...]
    edgecnn: str = __version__
    schema: int = SCHEMA


def release_from_json(text: bytes, where: str) -> Release:
    """A release's manifest; raises `ArtifactError` for another version's, for names that could leave the folder, and
    where an engine lacks a file."""
    content = mapping_from_json(text, f"{where}: {MANIFEST}", _AGAIN)
    if content.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{where}: a release of schema {content.get('schema')!r}, this edgecnn reads {SCHEMA}",
            "install the edgecnn that it was made with, or make it again with this one",
        )
    found = record_from_mapping(Release, content, f"{where}: {MANIFEST}", _AGAIN)
    _require_whole(found, where)
    return found


RELEASE = ArchiveKind("release", MANIFEST, release_from_json, COMMAND, signed=True)


def manifest_text(release: Release) -> bytes:
    """The content of its first member."""
    return (json.dumps(to_plain(release), indent=1, ensure_ascii=False) + "\n").encode()


def release_name(manifest: bytes) -> str:
    """The name of a release: the first digits of the manifest's sha256, which holds those of all its files."""
    return hashlib.sha256(manifest).hexdigest()[:DIGITS]


def files_of(release: Release, device_key: str) -> dict[str, BundledFile]:
    """The files for one device, by their path in the installed folder."""
    return {file.path.partition("/")[2]: file for file in release.files if file.path.partition("/")[0] == device_key}


def damaged_file(folder: Path, device_key: str, manifest: bytes | None = None) -> str:
    """Which file of an installed release is not there as it was released; "" where all are. With a `manifest` it has to
    be that one. Raises `ArtifactError` for a manifest that is damaged itself."""
    try:
        there = (folder / MANIFEST).read_bytes()
    except OSError:
        return MANIFEST
    if manifest is not None and there != manifest:
        return MANIFEST
    for path, file in files_of(release_from_json(there, str(folder)), device_key).items():
        if not (folder / path).is_file() or file_sha256(folder / path) != file.sha256:
            return path
    return ""


def _require_whole(found: Release, where: str) -> None:
    untrusted = f"do not trust this file; {_AGAIN}"
    folders = [row.device_key for row in found.engines]
    if not folders or len(set(folders)) != len(folders):
        raise ArtifactError(f"{where}: holds no engine, or two for one device", untrusted)
    paths = [file.path for file in found.files]
    if len(set(paths)) != len(paths):
        raise ArtifactError(f"{where}: a file stands there twice in {MANIFEST}", untrusted)
    for row in found.engines:
        if row.device_key != row.device.engine_key or "/" in row.device_key or unsafe(row.device_key):
            raise ArtifactError(f"{where}: {row.device_key[:80]!r} is not the key of its device", untrusted)
        if "/" in row.engine or unsafe(row.engine) or row.engine in _RESERVED or row.golden_n < 1:
            raise ArtifactError(f"{where}: {row.engine[:80]!r} cannot be an engine with golden images", untrusted)
        own = files_of(found, row.device_key)
        needed = [name for name in (row.engine, REFERENCE) for name in (name, sidecar_path(Path(name)).name)]
        if lacks := [name for name in (*needed, GOLDEN) if name not in own]:
            raise ArtifactError(f"{where}: lacks {row.device_key}/{lacks[0]}", untrusted)
    for file in found.files:
        folder, _, name = file.path.partition("/")
        if problem := unsafe(file.path):
            raise ArtifactError(f"{where}: member {file.path[:80]!r}: {problem}", untrusted)
        if folder not in folders or name in _RESERVED or name.startswith(".") or file.size < 0:
            raise ArtifactError(f"{where}: {file.path[:80]!r} belongs to no engine of the release", untrusted)
    _require_no_file_as_folder(paths, where, untrusted)


def _require_no_file_as_folder(paths: list[str], where: str, untrusted: str) -> None:
    folders = {"/".join(path.split("/")[:k]) for path in paths for k in range(1, path.count("/") + 1)}
    if both := sorted(folders.intersection(paths)):
        raise ArtifactError(f"{where}: {both[0][:80]!r} is a file and a folder at once", untrusted)
