"""Sidecars: everything a later step or a reader must know about an artifact without opening it.

The sidecar of `X` is `X.json`. An artifact that is JSON itself carries the same facts under `provenance`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecnn import __version__
from edgecnn.errors import ArtifactError

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
