"""What a repository of the Hugging Face Hub gets of a run: graphs, checkpoint, recipe, results and a model card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edgecnn.artifact.external import external_files
from edgecnn.artifact.hub import REPOSITORY, WEIGHTS, hub
from edgecnn.artifact.run_folder import TargetRun
from edgecnn.artifact.sidecar import sidecar_path, verified_sidecar
from edgecnn.artifact.signature import signature_path
from edgecnn.errors import ArtifactError, ModelError

CARD = "README.md"


def files_for_hub(run: TargetRun) -> dict[str, Path]:
    """The files of a run by their path below its folder, each artifact with its sidecar and signature; raises
    `ArtifactError` for one that is not whole, and where there is no graph."""
    folder = run.folder.parent
    artifacts = [*sorted(folder.glob("*.onnx")), *sorted(folder.glob("*.toml"))]
    if not any(path.suffix == ".onnx" for path in artifacts):
        raise ArtifactError(f"{folder}: has no graph", "name a run folder of `edgecnn run`")
    artifacts += [folder / WEIGHTS] if (folder / WEIGHTS).exists() else []
    found = []
    for path in artifacts:
        verified_sidecar(path)
        beside = external_files(path).values() if path.suffix == ".onnx" else ()
        found += [path, *beside, sidecar_path(path), signature_path(sidecar_path(path))]
    results = [*(result.path for result in run.results), *([run.verdict.path] if run.verdict else [])]
    found += [*results, *map(signature_path, results)]
    return {path.relative_to(folder).as_posix(): path for path in found if path.exists()}


def require_repository(repository: str) -> None:
    """Raise `ModelError` for what is no OWNER/REPO."""
    if not re.fullmatch(REPOSITORY, repository):
        raise ModelError(f"{repository}: no repository of the Hub", "write OWNER/REPO")


def push_to_hub(repository: str, files: Mapping[str, Path], card: str, *, private: bool = False) -> str:
    """Put files and card into a repository, which is made where it is not there, as one commit; returns the commit's
    address. Raises `ModelError` for what the Hub refuses."""
    require_repository(repository)
    with hub(repository) as api:
        api.create_repo(repository, private=private, exist_ok=True)
    from huggingface_hub import CommitOperationAdd

    added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    added.append(CommitOperationAdd(CARD, card.encode()))
    with hub(repository) as api:
        done = api.create_commit(repository, added, commit_message="edgecnn push")
    return str(done.commit_url)
