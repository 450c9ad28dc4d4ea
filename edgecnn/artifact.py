"""Artifacts: a file, its sha256, and the sidecar that says how it was made; written whole or not at all.

The sidecar of `X` is `X.json`. An artifact that is JSON itself carries the same facts under `provenance`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecnn import __version__
from edgecnn.errors import ArtifactError, WriteError

SCHEMA = 1


@dataclass(frozen=True)
class Sidecar:
    """Everything a later step or a reader must know about an artifact without opening it.

    `parents` maps paths relative to the artifact's folder to their sha256; `fields` holds the recipe values that
    the step read; `facts` holds what only this kind of artifact has. `sha256` is filled in on writing.
    """

    kind: str
    made_by: str = ""
    sha256: str = ""
    precision_requested: str = ""
    precision_obtained: str = ""
    parents: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] | None = None
    labels: list[str] | None = None
    wnids: list[str] | None = None
    tools: dict[str, str] = field(default_factory=dict)
    device: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    edgecnn: str = __version__
    schema: int = SCHEMA
    created: str = ""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    return digest.hexdigest()


def parents_of(path: Path, *parents: Path) -> dict[str, str]:
    """The `parents` entry of the sidecar of `path`: relative path -> sha256."""
    base = path.absolute().parent
    return {os.path.relpath(p.absolute(), base): sha256_of(p) for p in parents}


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions of `packages`, without importing them; those that are absent are left out."""
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; flushed and renamed to `path` on success, removed on any failure.

    Raises `WriteError` when the folder or the disk refuses.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
        temporary = None
    except OSError as exc:
        raise WriteError(
            f"{path}: cannot be written: {exc.strerror or exc}",
            "free some space, or choose a folder that you may write to with --out or -o",
        ) from exc
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_output(path: Path, suffix: str, *inputs: Path | None) -> None:
    """Refuse an output before the work for it is done: one that is read from, is a folder, lies where nothing may be
    written, or does not end in `suffix`, by which later steps know it. Raises `WriteError`."""
    for source in inputs:
        if source is not None and path.resolve() in (source.resolve(), sidecar_path(source).resolve()):
            what = "it is read from" if path.resolve() == source.resolve() else f"it is the sidecar of {source}"
            raise WriteError(f"{path}: would be overwritten: {what}", "choose another file with -o")
    if path.is_dir():
        raise WriteError(f"{path}: cannot be written: it is a folder", "name a file in it with -o")
    if path.suffix != suffix:
        raise WriteError(f"{path}: does not end in {suffix}", f"name it, for example, {path.stem}{suffix}")
    folder = next(f for f in path.absolute().parents if f.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise WriteError(
            f"{path}: cannot be written: {folder} is {'not writable' if folder.is_dir() else 'not a folder'}",
            "choose a folder that you may write to with -o",
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_artifact(path: Path, write: Callable[[Path], None], sidecar: Sidecar) -> Sidecar:
    """Make the artifact `path` by `write(temporary_path)`, with its sidecar; returns the sidecar as written.

    The old sidecar goes first and the new one comes last, so that a sidecar never stands beside a file it does not
    describe.
    """
    with atomic_path(path) as temporary:
        write(temporary)
        done = dataclasses.replace(sidecar, sha256=sha256_of(temporary), created=_now())
        sidecar_path(path).unlink(missing_ok=True)
    write_bytes(sidecar_path(path), _dump(dataclasses.asdict(done)))
    return done


def write_json_artifact(path: Path, content: Mapping[str, Any], provenance: Sidecar) -> None:
    """Write an artifact that is JSON itself: `content` with the sidecar's facts under `provenance`."""
    done = dataclasses.replace(provenance, created=_now())
    write_bytes(path, _dump({**content, "provenance": dataclasses.asdict(done)}))


def parse_json(text: str | bytes) -> Any:
    """JSON in which no key stands twice in an object; raises `ValueError` for anything else."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice")
        found[key] = value
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`; raises `ArtifactError` when it is missing, truncated, not an object, or holds a key
    twice."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file", "make it first, or check the path") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    except ValueError as exc:
        raise ArtifactError(f"{path}: not valid JSON ({exc})", "the file is damaged: make it again") from exc
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: a JSON object was expected", "the file is damaged: make it again")
    return content


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of `path` stands."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of `path` (or the provenance of a JSON artifact); raises `ArtifactError` when missing or damaged."""
    if path.suffix == ".json":
        where, content = path, read_json(path).get("provenance")
    else:
        where = sidecar_path(path)
        if path.exists() and not where.exists():
            raise ArtifactError(
                f"{path}: has no sidecar {where.name}",
                "copy the sidecar along, or make the artifact again",
            )
        content = read_json(where)
    return sidecar_from_json(where, content)


def verified_sidecar(path: Path) -> Sidecar:
    """The sidecar of `path` after checking that its sha256 is that of the file; raises `ArtifactError`."""
    sidecar = read_sidecar(path)
    if path.suffix != ".json" and (found := sha256_of(path)) != sidecar.sha256:
        raise ArtifactError(
            f"{path}: its sha256 {found[:12]} is not the one its sidecar promises ({sidecar.sha256[:12]})",
            "the file was changed or half copied: copy both again, or make it again",
        )
    return sidecar


def stale_reason(path: Path, expected: Sidecar, parents: Iterable[Path]) -> str | None:
    """Why the artifact `path` is not what `expected` would be made to now, or None when it is fresh.

    Compared: kind, edgecnn version, the values of the recipe fields, the content of the parents (a parent that is not
    on this machine is taken as unchanged) and, where `expected` names a device, tools or facts, those.
    """
    if not path.exists():
        return "not made yet"
    try:
        found = verified_sidecar(path)
    except ArtifactError as exc:
        return exc.message
    if found.kind != expected.kind:
        return f"it is of kind {found.kind}, not {expected.kind}"
    if found.edgecnn != expected.edgecnn:
        return f"made by edgecnn {found.edgecnn}, this is {expected.edgecnn}"
    for key in sorted(found.fields.keys() | expected.fields.keys()):
        old, new = found.fields.get(key), _plain(expected.fields.get(key))
        if old != new and key not in found.fields:
            return f"it does not say with which {key} it was made"
        if old != new:
            return f"{key} changed from {old!r} to {new!r}"
    base = path.absolute().parent
    names = {os.path.relpath(p.absolute(), base): p for p in parents}
    if names.keys() != found.parents.keys():
        return f"made from {', '.join(sorted(found.parents)) or 'nothing'}, not {', '.join(sorted(names)) or 'nothing'}"
    for name, parent in names.items():
        if parent.exists() and sha256_of(parent) != found.parents[name]:
            return f"{name} changed"
    for key, value in expected.tools.items():
        if found.tools.get(key) != value:
            return f"{key} was {found.tools.get(key, 'absent')}, here it is {value}"
    for key, value in expected.facts.items():
        if found.facts.get(key) != value:
            return f"{key} changed from {found.facts.get(key)} to {value}"
    if expected.device is not None and found.device != _plain(expected.device):
        return f"made on {_device_name(found.device)}, this is {_device_name(expected.device)}"
    return None


def _device_name(device: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{k} {v}" for k, v in (device or {}).items()) or "an unknown device"


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


_OBJECTS = ("parents", "fields", "tools", "facts")
_OPTIONAL = {"preprocessing": dict, "labels": list, "wnids": list, "device": dict}


def sidecar_from_json(where: Path, content: Any) -> Sidecar:
    """The sidecar that the JSON `content` of the file `where` is; raises `ArtifactError` when it is none."""
    known = {f.name for f in dataclasses.fields(Sidecar)}
    if not isinstance(content, dict) or "kind" not in content or content.keys() - known:
        unknown = next((f": unknown key {key[:60]!r}" for key in content or () if key not in known), "")
        raise ArtifactError(f"{where}: not a sidecar of edgecnn{unknown}", "make the artifact again with this version")
    if content.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{where}: sidecar schema {content.get('schema')}, this edgecnn reads {SCHEMA}",
            "make the artifact again with this version",
        )
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(content, (str,)) | dict.fromkeys(_OBJECTS, (dict,))
    kinds |= {"schema": (int,), **{key: (kind, type(None)) for key, kind in _OPTIONAL.items()}}
    if wrong := [key for key, value in content.items() if not isinstance(value, kinds[key])]:
        raise ArtifactError(
            f"{where}: damaged: {wrong[0]} is {str(content[wrong[0]])[:40]!r}", "make the artifact again"
        )
    return Sidecar(**content)
