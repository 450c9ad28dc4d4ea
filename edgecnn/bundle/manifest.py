"""What a bundle holds: its first member, and the rules for the names of the others."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecnn.errors import ArtifactError
from edgecnn.records import STRICT, mapping_from_json, record_from_mapping, to_plain
from edgecnn.targets import targets
from edgecnn.version import __version__

MANIFEST = "bundle.json"
SCHEMA = 1
REFERENCE, TEST_SET, RANGES = "reference.npz", "test-set.txt", "model.calib.json"
PACKED_IMAGES, IMAGE_FILES, BASELINES = "images.npz", "images", "baselines"
Images = Literal["packed", "files", "none"]

_AGAIN = "make it again: `edgecnn bundle RUN --for TARGET -o FILE.tar`"
_BASELINE = re.compile(rf"{BASELINES}/[^/]+/[^/]+\.json")


@dataclass(frozen=True)
class BundledFile:
    """One file: its path below the run folder, its size in bytes, its sha256."""

    __pydantic_config__ = STRICT

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """A run's graphs, sidecars, recipe, reference and test images for one `target`. The images are at `images_at` below
    the run folder ("" for none); `source` is where the recipe had them on the machine that made the bundle, `test_set`
    its manifest of them there, which has come along as `TEST_SET`."""

    __pydantic_config__ = STRICT

    recipe: str
    target: str
    images: Images
    images_at: str
    source: str
    files: tuple[BundledFile, ...]
    test_set: str = ""
    edgecnn: str = __version__
    schema: int = SCHEMA


def bundle_from_json(text: bytes, where: str) -> Bundle:
    """A bundle's manifest; raises `ArtifactError` for another version's, and for one that names a file that no bundle
    holds."""
    content = mapping_from_json(text, f"{where}: {MANIFEST}", _AGAIN)
    for key, ours in (("schema", SCHEMA), ("edgecnn", __version__)):
        if content.get(key) != ours:
            what = "a bundle of schema" if key == "schema" else "made by edgecnn"
            raise ArtifactError(
                f"{where}: {what} {content.get(key)!r}, this is {'schema' if key == 'schema' else 'edgecnn'} {ours}",
                "install the same version of edgecnn on both machines, or make the bundle again with this one",
            )
    found = record_from_mapping(Bundle, content, f"{where}: {MANIFEST}", _AGAIN)
    _require_files(found, where)
    if found.target not in targets():
        raise ArtifactError(f"{where}: for a device {found.target[:80]!r}, which is not known", _AGAIN)
    if at := found.images_at:
        require_safe(at, where)
    if at and not any(file.path == at or Path(at) in Path(file.path).parents for file in found.files):
        raise ArtifactError(f"{where}: holds no images at {at[:80]!r}", _AGAIN)
    return found


def manifest_text(bundle: Bundle) -> bytes:
    """The content of its first member."""
    return (json.dumps(to_plain(bundle), indent=1, ensure_ascii=False) + "\n").encode()


def installed_bundle(folder: Path) -> Bundle | None:
    """The bundle that a run folder was unpacked from, None for one that was made here; raises `ArtifactError`."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return bundle_from_json(path.read_bytes(), str(folder))
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check its permissions") from exc


def require_safe(path: str, where: str) -> None:
    """Raise `ArtifactError` for a path that is `unsafe`."""
    if problem := unsafe(path):
        raise ArtifactError(f"{where}: member {path[:80]!r}: {problem}", "do not trust this file; " + _AGAIN)


def unsafe(path: str) -> str:
    """Why a path could leave the folder that it is unpacked into, or why not every file system takes it; "" for a good
    one."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or re.match(r"[A-Za-z]:", path):
        return "an absolute path, or not one of POSIX"
    if ".." in parts:
        return "it leaves the folder by `..`"
    if any(part in ("", ".") for part in parts) or any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "not a plain path"
    if any(0xD800 <= ord(c) < 0xE000 for c in path):
        return "not valid UTF-8"
    return "too long" if any(len(part.encode()) > 255 for part in parts) or len(path) > 1024 else ""


def _require_files(found: Bundle, where: str) -> None:
    """Raise `ArtifactError` for a file that no bundle holds, and where the recipe is not there with its sidecar."""
    paths = [file.path for file in found.files]
    recipe = f"{found.recipe}.toml"
    if "/" in recipe or not {recipe, f"{recipe}.json"} <= set(paths):
        raise ArtifactError(f"{where}: holds no recipe {found.recipe[:80]!r} with its sidecar", _AGAIN)
    for file in found.files:
        require_safe(file.path, where)
        if not _belongs(file.path, recipe, set(paths)) or file.size < 0:
            raise ArtifactError(
                f"{where}: {file.path}: a bundle holds graphs, sidecars, a recipe, predictions, baselines and images",
                "engines are built on the device; " + _AGAIN,
            )
    _require_distinct(paths, where)


def _belongs(path: str, recipe: str, others: set[str]) -> bool:
    """Whether a bundle holds such a file: nothing that a run would take for a result, for code or for its lock."""
    if path.startswith(f"{IMAGE_FILES}/"):
        return True
    if "/" in path:
        return _BASELINE.fullmatch(path) is not None
    if path.startswith(".") or path == RANGES:
        return path == RANGES
    if path.endswith(".json.sig"):
        path = path.removesuffix(".sig")
        return path in others and _belongs(path, recipe, others)
    if path.endswith(".json"):
        return path.removesuffix(".json") in others and not path.endswith(".json.json")
    return path in (recipe, REFERENCE, PACKED_IMAGES, TEST_SET) or path.endswith(".onnx")


def _require_distinct(paths: list[str], where: str) -> None:
    """Raise `ArtifactError` for a file that stands there twice, or that another one takes for a folder."""
    files = set[str]()
    for path in paths:
        if path in files:
            raise ArtifactError(f"{where}: {path} stands there twice", "do not trust this file; " + _AGAIN)
        files.add(path)
    folders = {"/".join(path.split("/")[:k]) for path in paths for k in range(1, path.count("/") + 1)}
    if both := sorted(files & folders):
        raise ArtifactError(f"{where}: {both[0]} is a file and a folder at once", "do not trust this file; " + _AGAIN)
