"""Sidecars: everything a later step or a reader must know about an artifact without opening it.

The sidecar of `X` is `X.json`. An artifact that is JSON itself carries the same facts under `provenance`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from edgecnn.artifact.external import external_files
from edgecnn.artifact.pair import settle
from edgecnn.artifact.pair import sidecar_path as sidecar_path
from edgecnn.artifact.signature import check_signature, require_signature
from edgecnn.contract import EMBEDDING, InputForm, OutputForm, ServingContract
from edgecnn.errors import ArtifactError
from edgecnn.limits import read_file, require_regular
from edgecnn.records import STRICT, mapping_from_json, record_from_mapping
from edgecnn.results.device import Device
from edgecnn.results.engine import EngineInfo, Role, Scheme
from edgecnn.version import __version__

SCHEMA = 1
_CREATED = re.compile(rb'"created": "[0-9T:+-]*"')


@dataclass(frozen=True)
class Sidecar:
    """Everything a later step or a reader must know about an artifact without opening it.

    `parents` maps paths relative to the artifact's folder to their sha256; `fields` holds the recipe values that
    the step read; `facts` holds what only this kind of artifact has. `sha256` is filled in on writing. From `backend`
    to `target` they are the fields of an `EngineInfo`.
    """

    __pydantic_config__ = STRICT

    kind: str
    made_by: str = ""
    sha256: str = ""
    backend: str = ""
    provider: str = ""
    precision_requested: str = ""
    precision_obtained: str = ""
    scheme: Scheme = ""
    target: str = ""
    parents: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] | None = None
    labels: list[str] | None = None
    wnids: list[str] | None = None
    tools: dict[str, str] = field(default_factory=dict)
    device: Device | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    edgecnn: str = __version__
    schema: int = SCHEMA
    created: str = ""

    @property
    def engine(self) -> EngineInfo:
        """What runs it."""
        roles: dict[str, Role] = {"engine": "engine", "graph": "graph"}
        return EngineInfo(
            role=roles.get(self.kind, "reference"),
            backend=self.backend,
            provider=self.provider,
            precision_requested=self.precision_requested,
            precision_obtained=self.precision_obtained,
            scheme=self.scheme,
            target=self.target,
        )

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the outputs of a features graph, and of what was made of one; empty for a classifier."""
        return tuple(self.facts.get("features") or ())

    @property
    def embeds(self) -> bool:
        """Whether it gives an embedding alone, by which two images are of one class or not."""
        return self.features == (EMBEDDING,)

    def require_classes(self, path: Path | str = "the artifact") -> Sidecar:
        """This sidecar; raises `ArtifactError` where what it describes, at `path`, gives features and no classes."""
        if self.embeds:
            raise ArtifactError(
                f"{path}: an embedding network: it tells whether two images are of one class, and gives no classes",
                "of it there are run, export, calibrate, quantize, reference, build, validate, bench, gate, inspect, "
                "features and same",
            )
        if self.features:
            raise ArtifactError(
                f"{path}: a features graph: it gives {', '.join(self.features)}, and no classes",
                "of it there are calibrate, quantize, build, validate, inspect and features; for the rest export the "
                "network without --features",
            )
        return self

    @property
    def contract(self) -> ServingContract:
        """What it takes and gives; raises `ArtifactError` for an unknown serving contract, and for features."""
        self.require_classes()
        asked = (self.facts.get("serving_input", "normalised"), self.facts.get("serving_output", "logits"))
        for value, known in zip(asked, (InputForm, OutputForm), strict=True):
            if value not in get_args(known):
                raise ArtifactError(
                    f"a sidecar with the serving contract {value!r}; known are {', '.join(get_args(known))}",
                    "make the artifact again with this version",
                )
        classes = self.facts.get("classes", 0)
        return ServingContract(asked[0], asked[1], classes if isinstance(classes, int) else 0)


def sha256_of(path: Path, *, graph: bool | None = None) -> str:
    """Hex sha256 of an artifact's content: what its sidecar promises, and what those made of it name as their parent.

    It is the file's own (`file_sha256`) but in two cases. An artifact that is JSON carries the moment of its making,
    which is left out: what was made twice of the same is the same. And that of a graph (told by its name, where `graph`
    does not say it) whose weights lie in files beside it is that of what `sha256sum - FILE ... < GRAPH` prints of graph
    and files, those in the order of their names. Raises `ArtifactError`, as `external_files` does.
    """
    own = file_sha256(path, path.suffix == ".json")
    if not (path.suffix == ".onnx" if graph is None else graph):
        return own
    beside = external_files(path)
    if not beside:
        return own
    lines = [f"{own}  -\n", *(f"{file_sha256(file)}  {location}\n" for location, file in beside.items())]
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def file_sha256(path: Path, undated: bool = False) -> str:
    """Hex sha256 of the bytes of a file, `undated` as if no moment stood behind `"created": `."""
    digest = hashlib.sha256()
    try:
        require_regular(path)
        with path.open("rb") as file:
            if undated:
                digest.update(_CREATED.sub(b'"created": ""', file.read()))
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    return digest.hexdigest()


def parents_of(path: Path, *parents: Path, known: Mapping[Path, str] | None = None) -> dict[str, str]:
    """The `parents` entry of the sidecar of `path`: relative path -> sha256, where that is not `known` already."""
    base, known = path.absolute().parent, known or {}
    return {os.path.relpath(p.absolute(), base): known.get(p) or sha256_of(p) for p in parents}


def tool_versions(*packages: str) -> dict[str, str]:
    """Installed versions of `packages`, without importing them; those that are absent are left out."""
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`; raises `ArtifactError` when it is missing, truncated, not an object, holds a key
    twice, or has a signature that is not one of it."""
    with contextlib.suppress(OSError):  # in a folder that is read-only its signature tells
        settle(path)
    try:
        text = read_file(path)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file", "make it first, or check the path") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    check_signature(path, text)
    return mapping_from_json(text, str(path), "the file is damaged: make it again")


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar of `path` (or the provenance of a JSON artifact); raises `ArtifactError` when missing or damaged, and
    where a signature is demanded and it has none."""
    if path.suffix == ".json":
        where, content = path, read_json(path).get("provenance")
    else:
        where = sidecar_path(path)
        with contextlib.suppress(OSError):  # in a folder that is read-only the hash tells
            settle(path)
        if path.exists() and not where.exists():
            raise ArtifactError(
                f"{path}: has no sidecar {where.name}",
                "copy the sidecar along, or make the artifact again",
            )
        content = read_json(where)
    require_signature(where)
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


def sidecar_from_json(where: Path, content: Any) -> Sidecar:
    """The sidecar that the JSON `content` of the file `where` is; raises `ArtifactError` when it is none."""
    again = "make the artifact again with this version"
    if not isinstance(content, dict) or "kind" not in content:
        raise ArtifactError(f"{where}: not a sidecar of edgecnn", again)
    if content.get("schema") != SCHEMA:
        raise ArtifactError(f"{where}: sidecar schema {content.get('schema')}, this edgecnn reads {SCHEMA}", again)
    return record_from_mapping(Sidecar, content, f"{where}: not a sidecar of edgecnn", again)
