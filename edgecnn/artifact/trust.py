"""Sign what a run has made, and verify who made it: each artifact, its content, and what it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar, sha256_of, sidecar_path, verified_sidecar
from edgecnn.artifact.signature import sign, signature_path, signer_of
from edgecnn.artifact.write import write_bytes
from edgecnn.errors import ArtifactError
from edgecnn.records import mapping_from_json

_AGAIN = "the file is damaged: make it again, or remove it"
DEFAULT_KEY = Path("~/.ssh/id_ed25519")


@dataclass(frozen=True)
class ArtifactSignature:
    """An artifact below the folder that was looked at, who has signed it ("" for nobody that counts), and what is wrong
    with it."""

    path: str
    signed_by: str
    problem: str = ""
    hint: str = ""


def sign_run(run: Path, key: Path | None = None) -> list[Path]:
    """Sign every artifact of a run (or of a folder in it, or one alone) after checking that it is what its sidecar
    says; returns the signatures. Raises `ArtifactError`, before anything is signed."""
    found = find_artifacts(run)
    for artifact in found:
        verified_sidecar(artifact)
    described = [_described(artifact) for artifact in found]
    signatures = sign([_bytes(path) for path in described], (key or DEFAULT_KEY).expanduser())
    for path, signature in zip(described, signatures, strict=True):
        write_bytes(signature_path(path), signature)
    return [signature_path(path) for path in described]


def verify_run(run: Path) -> list[ArtifactSignature]:
    """Every artifact of a run, verified: signed by somebody who is allowed, its content what its sidecar says, and the
    artifacts beside it that it was made from still those. Raises `ArtifactError` where nothing can be verified."""
    base = run if run.is_dir() else run.parent
    return [_verify(artifact, base) for artifact in find_artifacts(run)]


def find_artifacts(run: Path) -> list[Path]:
    """The artifacts in a folder and below it, or the one that is named; raises `ArtifactError` where there is none."""
    if run.is_file():
        if not _is_artifact(run):
            raise ArtifactError(f"{run}: has no sidecar: no artifact of edgecnn", "name a run folder, or an artifact")
        return [run]
    found = sorted(path for path in run.rglob("*") if path.is_file() and _is_artifact(path)) if run.is_dir() else []
    if not found:
        what = "no artifact of edgecnn in it" if run.is_dir() else "no such file or folder"
        raise ArtifactError(f"{run}: {what}", "name a run folder, or an artifact")
    return found


def _is_artifact(path: Path) -> bool:
    """Whether a file has a sidecar, or says itself what made it."""
    if path.suffix != ".json":
        return sidecar_path(path).is_file()
    return not path.with_suffix("").is_file() and "provenance" in mapping_from_json(_bytes(path), str(path), _AGAIN)


def _described(artifact: Path) -> Path:
    return artifact if artifact.suffix == ".json" else sidecar_path(artifact)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check its permissions") from exc


def _verify(artifact: Path, base: Path) -> ArtifactSignature:
    name, described, who = str(artifact.relative_to(base)), _described(artifact), ""
    try:
        who = signer_of(described, _bytes(described))
        _require_made_from(artifact, verified_sidecar(artifact), base)
    except ArtifactError as exc:
        return ArtifactSignature(name, "", exc.message, exc.hint)
    return ArtifactSignature(name, who)


def _require_made_from(artifact: Path, sidecar: Sidecar, base: Path) -> None:
    """Raise `ArtifactError` where an artifact below `base` that `artifact` was made from is another by now."""
    for parent, digest in sidecar.parents.items():
        path = artifact.parent / parent
        inside = base.resolve() in path.resolve().parents
        if inside and path.is_file() and sha256_of(path) != digest:
            raise ArtifactError(
                f"{artifact}: was not made from the {parent} that is there now",
                "make it again from that, or copy the whole run again",
            )
